"""Each refusal of the Hub raises in the real client what the real Hub would raise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub import LoopbackHub, free_port

FILES = {"config.json": "{}", "model.safetensors": b"weights"}
TOKENS = {"hf_none": "nora", "hf_pending": "pete", "hf_rejected": "ray", "hf_granted": "gina"}


@pytest.fixture
def where(hub: LoopbackHub, tmp_path: Path) -> dict[str, Any]:
    """Open, gated, private and disabled repositories, and users in every state of access."""
    for token, name in TOKENS.items():
        hub.add_user(token, name)
    states = {token: token.removeprefix("hf_") for token in TOKENS}
    hub.add_repo("Org/Open", files=FILES)
    hub.add_repo("Org/Gated", files=FILES, gated="manual", access=states)
    hub.add_repo("Org/Private", files=FILES, private=True, access={"hf_granted": "granted"})
    hub.add_repo("Org/Disabled", files=FILES, disabled=True)
    return {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache"}


def fetch(where: dict[str, Any], repo: str, token: str | bool, name: str = "config.json") -> bytes:
    return Path(hf_hub_download(repo, name, token=token, **where)).read_bytes()


@pytest.mark.parametrize("repo", ["Org/Missing", "Org/Private"])
def test_missing_and_private_look_the_same(
    hub: LoopbackHub, where: dict[str, Any], repo: str
) -> None:
    api = HfApi(endpoint=hub.endpoint)
    for token, status in ((False, 401), ("hf_none", 404)):
        with pytest.raises(RepositoryNotFoundError) as refused:
            api.model_info(repo, token=token)
        assert not isinstance(refused.value, GatedRepoError)
        assert refused.value.response.status_code == status


def test_private_opens_for_its_readers(hub: LoopbackHub, where: dict[str, Any]) -> None:
    assert fetch(where, "Org/Private", "hf_granted") == b"{}"
    listed = HfApi(endpoint=hub.endpoint).list_models(author="Org", token=False)
    assert "Org/Private" not in [model.id for model in listed]


@pytest.mark.parametrize(
    ("token", "status", "words"),
    [
        (False, 401, "log in"),
        ("hf_wrong", 401, "log in"),
        ("hf_none", 403, "not in the authorized list"),
        ("hf_pending", 403, "awaiting a review"),
        ("hf_rejected", 403, "has been rejected"),
    ],
)
def test_gated_files_say_why_they_are_refused(
    where: dict[str, Any], token: str | bool, status: int, words: str
) -> None:
    with pytest.raises(GatedRepoError) as refused:
        fetch(where, "Org/Gated", token, "model.safetensors")
    assert refused.value.response.status_code == status
    assert words in str(refused.value.response.headers["X-Error-Message"])


def test_gated_files_open_for_the_granted(where: dict[str, Any]) -> None:
    assert fetch(where, "Org/Gated", "hf_granted", "model.safetensors") == b"weights"


def test_auth_check_tells_access(hub: LoopbackHub, where: dict[str, Any]) -> None:
    api = HfApi(endpoint=hub.endpoint)
    api.auth_check("Org/Gated", token="hf_granted")
    api.auth_check("Org/Open", token=False)
    for token in (False, "hf_none", "hf_pending"):
        with pytest.raises(GatedRepoError):
            api.auth_check("Org/Gated", token=token)


def test_a_bad_token_breaks_even_public_repositories(
    hub: LoopbackHub, where: dict[str, Any]
) -> None:
    api = HfApi(endpoint=hub.endpoint)
    for call in (api.whoami, lambda token: api.model_info("Org/Open", token=token)):
        with pytest.raises(HfHubHTTPError) as refused:
            call(token="hf_expired")
        assert refused.value.response.status_code == 401
        message = refused.value.response.headers["X-Error-Message"]
        assert message == "Invalid credentials in Authorization header"
        assert not isinstance(refused.value, RepositoryNotFoundError)


def test_disabled(hub: LoopbackHub, where: dict[str, Any]) -> None:
    with pytest.raises(DisabledRepoError):
        HfApi(endpoint=hub.endpoint).model_info("Org/Disabled", token=False)


def test_missing_revision_and_file(hub: LoopbackHub, where: dict[str, Any]) -> None:
    with pytest.raises(RevisionNotFoundError):
        HfApi(endpoint=hub.endpoint).model_info("Org/Open", revision="v9", token=False)
    with pytest.raises(RemoteEntryNotFoundError):
        fetch(where, "Org/Open", False, "absent.json")
    with pytest.raises(EntryNotFoundError):
        list(HfApi(endpoint=hub.endpoint, token=False).list_repo_tree("Org/Open", "absent"))
    marker = where["cache_dir"] / "models--Org--Open/.no_exist"
    assert (marker / hub.repos["Org/Open"].head().id / "absent.json").exists()


def test_the_wrong_case_redirects_and_keeps_the_asked_folder(
    hub: LoopbackHub, where: dict[str, Any]
) -> None:
    assert HfApi(endpoint=hub.endpoint).model_info("org/OPEN", token=False).id == "Org/Open"
    assert fetch(where, "org/open", False, "model.safetensors") == b"weights"
    assert [path.name for path in where["cache_dir"].glob("models--*")] == ["models--org--open"]


def test_renamed_repositories_redirect_even_to_another_owner(
    hub: LoopbackHub, where: dict[str, Any]
) -> None:
    hub.rename("Org/Open", "Org/Newer")
    hub.rename("runway/diffusion", "Org/Newer")
    for old in ("Org/Open", "runway/diffusion"):
        assert HfApi(endpoint=hub.endpoint).model_info(old, token=False).id == "Org/Newer"
        assert fetch(where, old, False) == b"{}"


def test_rate_limits_say_when_to_come_back(hub: LoopbackHub, where: dict[str, Any]) -> None:
    hub.rate_limit("/api/models/*", retry_after=7)
    with pytest.raises(HfHubHTTPError) as refused:
        HfApi(endpoint=hub.endpoint).model_info("Org/Open", token=False)
    assert refused.value.response.status_code == 429
    assert "Retry after 7 seconds" in str(refused.value)


def test_server_errors_and_latency_strike_as_often_as_told(
    hub: LoopbackHub, where: dict[str, Any]
) -> None:
    api = HfApi(endpoint=hub.endpoint)
    fault = hub.fault("/api/models/*", status=503, times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError):
            api.model_info("Org/Open", token=False)
    assert api.model_info("Org/Open", token=False).id == "Org/Open"
    assert fault.hits == 2
    assert [request.status for request in hub.requests] == [503, 503, 200]


@pytest.mark.straight
def test_a_tcp_reset_in_the_middle_of_a_file_fails_the_download(
    hub: LoopbackHub, where: dict[str, Any]
) -> None:
    hub.commit("Org/Open", {"model.safetensors": bytes(1 << 20)})
    hub.fault("/cdn/*", cut_at=1000, reset=True)
    with pytest.raises(Exception, match="reset|closed|peer|incomplete"):
        fetch(where, "Org/Open", False, "model.safetensors")
    assert not list(where["cache_dir"].glob("**/*.incomplete"))


def test_a_dead_endpoint_refuses_connections(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="refused"):
        HfApi(endpoint=f"http://127.0.0.1:{free_port()}").model_info("Org/Open", token=False)
