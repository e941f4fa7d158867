"""Files as the real client downloads them from the loopback Hub."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub import snapshot_download as download

from tests.hub import LoopbackHub
from tests.hub.repos import git_blob_sha1

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
CONFIG = b'{"model_type": "llama"}'


@pytest.fixture
def where(hub: LoopbackHub, tmp_path: Path) -> dict[str, Any]:
    """A repository with a small and an LFS file, and the arguments that lead the client to it."""
    files = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "sub/notes.txt": "hello"}
    hub.add_repo("Org/Name", files=files)
    return {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache", "token": False}


def test_a_snapshot_holds_every_file_under_its_hash(
    hub: LoopbackHub, where: dict[str, Any]
) -> None:
    folder = Path(download("Org/Name", **where))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "sub/notes.txt").read_text() == "hello"
    blobs = {path.name for path in (where["cache_dir"] / "models--Org--Name/blobs").iterdir()}
    assert hashlib.sha256(WEIGHTS).hexdigest() in blobs
    assert git_blob_sha1(CONFIG) in blobs


@pytest.mark.straight
def test_metadata_of_small_and_lfs_files(hub: LoopbackHub, where: dict[str, Any]) -> None:
    def ask(name: str) -> Any:
        url = hf_hub_url("Org/Name", name, endpoint=hub.endpoint)
        return get_hf_file_metadata(url, token=False)

    small, large = ask("config.json"), ask("model.safetensors")
    commit = HfApi(endpoint=hub.endpoint, token=False).model_info("Org/Name").sha
    assert (small.commit_hash, small.size, small.etag) == (commit, 23, git_blob_sha1(CONFIG))
    assert (large.commit_hash, large.size) == (commit, len(WEIGHTS))
    assert large.etag == hashlib.sha256(WEIGHTS).hexdigest()
    assert large.location.startswith(hub.cdn)


def test_the_token_never_reaches_the_cdn(hub: LoopbackHub, where: dict[str, Any]) -> None:
    hub.add_user("hf_alice", "alice")
    download("Org/Name", **(where | {"token": "hf_alice"}))
    who = {request.path.split("/")[1]: request.who for request in hub.requests}
    assert who == {"api": "alice", "Org": "alice", "cdn": "anonymous"}


@pytest.mark.straight
def test_the_cdn_serves_only_addresses_the_hub_signed(
    hub: LoopbackHub, where: dict[str, Any]
) -> None:
    url = hf_hub_url("Org/Name", "model.safetensors", endpoint=hub.endpoint)
    location = httpx2.head(url).headers["location"]
    assert httpx2.get(location).content == WEIGHTS
    assert httpx2.get(location[:-4] + "beef").status_code == 403
    assert httpx2.get(location.split("?")[0]).status_code == 403


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("bytes=0-9", WEIGHTS[:10]), ("bytes=100-", WEIGHTS[100:]), ("bytes=-5", WEIGHTS[-5:])],
)
def test_ranges(hub: LoopbackHub, where: dict[str, Any], asked: str, expected: bytes) -> None:
    url = hf_hub_url("Org/Name", "model.safetensors", endpoint=hub.endpoint)
    answer = httpx2.get(url, headers={"Range": asked}, follow_redirects=True)
    assert (answer.status_code, answer.content) == (206, expected)


def test_a_range_past_the_end_is_refused(hub: LoopbackHub, where: dict[str, Any]) -> None:
    url = hf_hub_url("Org/Name", "config.json", endpoint=hub.endpoint)
    answer = httpx2.get(url, headers={"Range": "bytes=500-"}, follow_redirects=True)
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */23")


def test_revisions_and_refs(hub: LoopbackHub, where: dict[str, Any]) -> None:
    first = hub.repos["Org/Name"].head().id
    second = hub.commit("Org/Name", {"config.json": b"{}"})
    pull = hub.commit("Org/Name", {"config.json": b"[]"}, ref="refs/pr/1")
    hub.tag("Org/Name", "v1", first)
    read = {
        revision: Path(
            hf_hub_download("Org/Name", "config.json", revision=revision, **where)
        ).read_bytes()
        for revision in ("main", "v1", "refs/pr/1", first)
    }
    assert read == {"main": b"{}", "v1": CONFIG, "refs/pr/1": b"[]", first: CONFIG}
    api = HfApi(endpoint=hub.endpoint, token=False)
    refs = api.list_repo_refs("Org/Name", include_pull_requests=True)
    assert [(ref.name, ref.target_commit) for ref in refs.branches] == [("main", second)]
    assert [ref.target_commit for ref in refs.tags + (refs.pull_requests or [])] == [first, pull]
    assert [c.commit_id for c in api.list_repo_commits("Org/Name")] == [second, first]


def test_commit_ids_depend_on_content_alone(hub: LoopbackHub) -> None:
    with LoopbackHub() as other:
        made = [h.add_repo("A/b", files={"x.txt": "1"}).head().id for h in (hub, other)]
    assert made[0] == made[1]
    assert hub.commit("A/b", {"x.txt": "2"}) != made[0]


def test_a_connection_cut_in_the_middle_is_resumed_by_range(
    hub: LoopbackHub, where: dict[str, Any]
) -> None:
    hub.fault("/cdn/*", cut_at=300_000)
    path = hf_hub_download("Org/Name", "model.safetensors", **where)
    assert Path(path).read_bytes() == WEIGHTS
    ranges = [r.range for r in hub.requests if r.path.startswith("/cdn/") and r.method == "GET"]
    assert len(ranges) == 2


def test_a_held_download_goes_on_when_released(hub: LoopbackHub, where: dict[str, Any]) -> None:
    import threading

    fault = hub.fault("/cdn/*", hold_at=1000)
    got: list[str] = []
    run = threading.Thread(
        target=lambda: got.append(hf_hub_download("Org/Name", "model.safetensors", **where))
    )
    run.start()
    assert fault.reached.wait(10)
    assert list((where["cache_dir"] / "models--Org--Name/blobs").glob("*.incomplete"))
    fault.release()
    run.join(10)
    assert Path(got[0]).read_bytes() == WEIGHTS
