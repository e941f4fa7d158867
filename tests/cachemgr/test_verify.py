"""Verify: a blob is what its name says, a snapshot is what its listing says; repair mends."""

import errno
import json
import os
import time
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.journal import fileops
from mdl.cachemgr.scan.content import CHUNK, chunks, same_content
from mdl.cachemgr.scan.folder import scan_folder
from mdl.cachemgr.verify.repair import repair_cache
from mdl.cachemgr.verify.verify import Verifier, VerifyReport
from mdl.errors import OfflineError
from mdl.settings import Settings
from tests.cachemgr.builder import A, CacheBuilder, etag, manifest
from tests.hub import LoopbackHub

FILES = {"config.json": b"{}", "w": b"w" * 5000, "sub/t": b"t"}


def run(cache: Cache, *, again: bool = False, rate: float | None = None) -> VerifyReport:
    root = str(cache.root)
    folders = [scan_folder(root, s.name, marked=True) for s in cache.survey().summaries]
    return Verifier(root, cache.index, again=again, rate=rate).run(folders)


def problems(report: VerifyReport) -> dict[str, str]:
    return {bad.files[0][1] if bad.files else str(bad.blob): bad.problem for bad in report.bad}


def test_a_good_cache_is_good(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, FILES, refs=("main",), tree=FILES)
    report = run(cache)
    assert report.bad == []
    assert (report.checked, report.bytes) == (3, sum(map(len, FILES.values())))


def test_what_is_wrong_is_found(built: CacheBuilder, cache: Cache) -> None:
    listed = {**FILES, "absent": b"a"}
    snapshot = built.revision("o/n", A, FILES, refs=("main",), tree=listed)
    (snapshot / "w").resolve().write_bytes(b"x" * 5000)
    (snapshot / "sub/t").resolve().unlink()
    (snapshot / "config.json").unlink()
    built.blob(built.folder("o/n"), b"another file")
    built.pointer(snapshot, "config.json", etag(b"another file"))
    found = problems(run(cache))
    assert found.keys() == {"w", "sub/t", "config.json", "absent"}
    assert "its content hashes to" in found["w"]
    assert found["sub/t"] == "points to no blob"
    assert "is not the file its listing names" in found["config.json"]
    assert found["absent"] == "is missing"


def test_small_files_are_named_by_git(built: CacheBuilder, cache: Cache) -> None:
    folder = built.folder("o/n")
    data = b"small"
    (folder / "blobs").mkdir(parents=True)
    name = etag(data, lfs=False)
    (folder / "blobs" / name).write_bytes(data)
    built.pointer(folder / "snapshots" / A, "small", name)
    assert run(cache).bad == []
    (folder / "blobs" / name).write_bytes(b"smell")
    assert "its content hashes to" in problems(run(cache))["small"]


def test_copies_are_compared_with_the_listing(built: CacheBuilder, cache: Cache) -> None:
    snapshot = built.folder("o/n") / "snapshots" / A
    snapshot.mkdir(parents=True)
    (snapshot / "w").write_bytes(b"1" * 10)
    built.tree(built.folder("o/n"), A, {"w": b"2" * 10})
    assert "its content hashes to" in problems(run(cache))["w"]


def test_shared_bytes_are_hashed_once(built: CacheBuilder, cache: Cache) -> None:
    for name in ("o/one", "o/two"):
        built.revision(name, A, {"w": b"p" * 100}, refs=("main",))
        built.share(name, b"p" * 100)
    report = run(cache)
    assert (report.checked, report.bad) == (1, [])


def test_a_second_run_goes_on_where_the_first_was(built: CacheBuilder, cache: Cache) -> None:
    snapshot = built.revision("o/n", A, FILES, refs=("main",))
    run(cache)
    built.revision("o/n", A, {"new": b"n"})
    report = run(cache)
    assert (report.checked, report.skipped) == (1, 3)
    assert run(cache, again=True).checked == 4
    (snapshot / "w").resolve().write_bytes(b"x" * 5000)
    assert run(cache).bad, "changed content is hashed again"


def test_access_times_stay(built: CacheBuilder, cache: Cache) -> None:
    snapshot = built.revision("o/n", A, FILES, refs=("main",))
    path = (snapshot / "w").resolve()
    os.utime(path, (1000, path.stat().st_mtime))
    run(cache)
    assert path.stat().st_atime == 1000


def test_the_throttle_holds(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {str(n): bytes([n]) * 10_000 for n in range(6)}, refs=("main",))
    start = time.monotonic()
    run(cache, rate=100_000.0)
    assert time.monotonic() - start >= 0.5


def test_reading_gives_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "large"
    data = os.urandom(CHUNK * 2 + 17)
    path.write_bytes(data)
    assert b"".join(bytes(chunk) for chunk in chunks(str(path))) == data
    other = tmp_path / "other"
    other.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not same_content(str(path), str(other))
    other.write_bytes(data)
    assert same_content(str(path), str(other))


@pytest.fixture
def downloaded(hub: LoopbackHub, built: CacheBuilder, settings: Settings) -> Cache:
    """A real download, through huggingface_hub, from a real Hub on a socket."""
    hub.add_repo(
        "Org/Name", files={"config.json": "{}", "w.safetensors": b"w" * 5000, "sub/t": "t"}
    )
    snapshot_download("Org/Name", cache_dir=built.root, endpoint=hub.endpoint, token=False)
    online = Settings(home=settings.home, cache_root=built.root, endpoint=hub.endpoint)
    return open_cache(online)


def test_repair_fetches_what_is_bad_and_missing(downloaded: Cache, built: CacheBuilder) -> None:
    before = manifest(built.root)
    snapshot = next(built.root.glob("models--*/snapshots/*"))
    (snapshot / "w.safetensors").resolve().write_bytes(b"x" * 5000)
    (snapshot / "config.json").resolve().unlink()
    (snapshot / "sub/t").unlink()
    report = run(downloaded)
    assert len(report.bad) == 3
    repaired = repair_cache(downloaded, report.bad)
    assert (repaired.fixed, repaired.failed) == (3, ())
    assert manifest(built.root) == before
    assert run(downloaded, again=True).bad == []


@pytest.mark.straight
def test_a_repair_that_fails_leaves_what_was_there(
    downloaded: Cache, built: CacheBuilder, hub: LoopbackHub
) -> None:
    snapshot = next(built.root.glob("models--*/snapshots/*"))
    (snapshot / "w.safetensors").resolve().write_bytes(b"x" * 5000)
    before = manifest(built.root)
    hub.fault("*w.safetensors*", status=404, times=None)
    repaired = repair_cache(downloaded, run(downloaded).bad)
    assert repaired.fixed == 0
    assert repaired.failed[0][1]
    assert manifest(built.root) == before


def test_a_repair_leaves_alone_what_it_may_not_change(
    downloaded: Cache, built: CacheBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = next(built.root.glob("models--*/snapshots/*"))
    theirs = (snapshot / "w.safetensors").resolve()
    theirs.write_bytes(b"x" * 5000)
    (snapshot / "config.json").resolve().write_bytes(b"[]")
    rename = fileops.rename_new

    def refused(source: str, target: str) -> None:
        if source == str(theirs):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), source)
        rename(source, target)

    monkeypatch.setattr(fileops, "rename_new", refused)
    repaired = repair_cache(downloaded, run(downloaded).bad)
    assert repaired.fixed == 1
    assert [why for _, why in repaired.failed] == ["you do not have permission to change it"]
    assert theirs.read_bytes() == b"x" * 5000
    assert (snapshot / "config.json").read_bytes() == b"{}"


def test_repair_offline_is_refused(built: CacheBuilder, settings: Settings) -> None:
    cache = open_cache(Settings(settings.home, settings.cache_root, offline=True))
    with pytest.raises(OfflineError):
        repair_cache(cache, [])


def test_a_damaged_listing_says_nothing(built: CacheBuilder, cache: Cache) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"w"}
    built.revision("o/n", A, files, refs=("main",), tree=files)
    listing = built.folder("o/n") / "trees" / f"{A}.json"
    for text in ("{", "[]", json.dumps({"format_version": 1, "files": {"w": 3}}), ""):
        listing.write_text(text)
        assert run(cache).bad == []
        assert cache.repo("o/n").revisions[0].state == "complete"
