"""Lock files that no `mdl lock` wrote: one refusal each, whatever they hold."""

from pathlib import Path

import pytest

from mdl.errors import UsageError
from mdl.resolver import read_lock

ENTRY = """[[model]]
requested = "org/name"
format = "16bit"
canonical = "org/name"
repo_id = "org/name"
commit = "{commit}"
substituted = false
quantize_on_load = false
source = "hub"
[model.files]
"{path}" = "sha1:{sha}"
"""


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"version = ", b"version = " + b"1" * 5000, b"version = " + b"[" * 200_000],
)
def test_an_unparsable_lock_file_is_rejected(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "mdl.lock"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="is not a lock file") as refused:
        read_lock(path)
    assert refused.value.next


@pytest.mark.parametrize(
    "changed",
    [
        {"commit": "main"},
        {"path": "../../etc/passwd"},
        {"path": "/etc/passwd"},
        {"sha": "zz"},
    ],
)
def test_values_that_cannot_come_from_a_hub_are_rejected_first(
    tmp_path: Path, changed: dict[str, str]
) -> None:
    fields = {"commit": "a" * 40, "path": "model.safetensors", "sha": "b" * 40}
    path = tmp_path / "mdl.lock"
    path.write_text("version = 1\n" + ENTRY.format(**fields))
    (entry,) = read_lock(path)
    assert entry.files == {"model.safetensors": "sha1:" + "b" * 40}
    path.write_text("version = 1\n" + ENTRY.format(**{**fields, **changed}))
    with pytest.raises(UsageError, match="cannot be used"):
        read_lock(path)
