"""Which addresses are the Hub's, and which the service's own."""

import pytest

from mdl.hub_server import is_hub_path


@pytest.mark.parametrize(
    ("path", "hub"),
    [
        ("/gpt2/resolve/main/config.json", True),
        ("/org/name/resolve/main/a/b.json", True),
        ("/datasets/org/name/resolve/main/x", True),
        ("/spaces/org/name/resolve/refs%2Fpr%2F1/x", True),
        ("/api/models/org/name", True),
        ("/org/name.git/info/refs", True),
        ("/v1/resolve", False),
        ("/v1/cache/org/resolve", False),
        ("/v1/catalog/resolve/name", False),
        ("/page/act", False),
    ],
)
def test_an_address_belongs_to_one_side(path: str, hub: bool) -> None:
    assert is_hub_path(path) is hub
