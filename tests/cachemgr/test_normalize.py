"""Normalize: every casing finds one copy, nothing is lost, and undo parts them again."""

import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download, try_to_load_from_cache

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.normalize import NormalizeRequest, apply_normalize, plan_normalize
from mdl.cachemgr.normalize.execute import Normalized
from mdl.cachemgr.remove import apply_remove, empty_trash, plan_remove, trash_entries, undo_last
from mdl.errors import DiskError
from mdl.settings import Settings
from tests.cachemgr.builder import A, B, C, CacheBuilder, disk_use, etag, manifest, settle

WEIGHTS = b"w" * 10_000
OLD = {"config.json": b"{}", "w": WEIGHTS, "sub/t": b"t"}
NEW = {"config.json": b'{"new": 1}', "w": WEIGHTS, "sub/t": b"t"}
CASINGS = ("Org/Name", "org/name", "ORG/NAME")


@pytest.fixture
def casings(built: CacheBuilder) -> CacheBuilder:
    """One casing is whole, one has an old revision, one only a file."""
    built.revision("org/name", A, OLD, refs=("main",), tree=OLD)
    built.revision("ORG/NAME", B, {"config.json": NEW["config.json"]})
    built.revision("Org/Name", B, NEW, refs=("main", "v2"), tree=NEW)
    older = built.folder("org/name") / "refs" / "main"
    os.utime(older, (1000, 1000))
    return built


def normalize(cache: Cache, request: NormalizeRequest, hub: str | None = "Org/Name") -> Normalized:
    return apply_normalize(cache, plan_normalize(cache, request, lambda kind, name: hub))


def offline(built: CacheBuilder, repo_id: str, revision: str = "main") -> Path:
    """Where transformers and everyone else finds a snapshot without the Hub."""
    return Path(
        snapshot_download(repo_id, revision=revision, cache_dir=built.root, local_files_only=True)
    )


@pytest.mark.parametrize("to", ["shared", "hub", "lower"])
def test_every_casing_finds_the_newest_and_the_old(
    casings: CacheBuilder, cache: Cache, to: str
) -> None:
    before = manifest(casings.root)
    normalize(cache, NormalizeRequest(to))
    for casing in CASINGS:
        found = offline(casings, casing)
        assert found.name == B
        assert {str(p.relative_to(found)) for p in found.rglob("*") if p.is_file()} == set(NEW)
        assert (offline(casings, casing, A) / "config.json").read_bytes() == b"{}"
        assert offline(casings, casing, "v2").name == B
    assert before.items() <= manifest(casings.root).items()
    (repo,) = cache.list()
    assert set(repo.spellings) == set(CASINGS)
    assert not repo.problems
    assert {revision.state for revision in repo.revisions} == {"complete"}


@pytest.mark.parametrize("to", ["shared", "hub", "lower"])
def test_bytes_are_on_disk_once(casings: CacheBuilder, cache: Cache, to: str) -> None:
    twice = disk_use(casings.root)
    outcome = normalize(cache, NormalizeRequest(to))
    assert outcome.saved >= len(WEIGHTS)
    weights = [path for path in casings.root.glob(f"*/blobs/{etag(WEIGHTS)}") if path.is_file()]
    assert len({os.stat(path).st_ino for path in weights}) == 1
    assert disk_use(casings.root) < twice - len(WEIGHTS) + 1000


@pytest.mark.parametrize("to", ["shared", "hub", "lower"])
def test_a_second_time_there_is_nothing_to_do(casings: CacheBuilder, cache: Cache, to: str) -> None:
    normalize(cache, NormalizeRequest(to))
    again = plan_normalize(cache, NormalizeRequest(to), lambda kind, name: "Org/Name")
    assert again.groups == ()


@pytest.mark.parametrize("to", ["shared", "hub", "lower"])
def test_undo_gives_back_the_folders(casings: CacheBuilder, cache: Cache, to: str) -> None:
    before, use = manifest(casings.root), disk_use(casings.root)
    paths = sorted(str(path) for path in casings.root.rglob("*"))
    normalize(cache, NormalizeRequest(to))
    assert undo_last(cache).kind == "normalize"
    assert manifest(casings.root) == before
    assert sorted(str(path) for path in casings.root.rglob("*")) == paths
    assert disk_use(casings.root) == use


def test_hub_leaves_one_folder_and_links(casings: CacheBuilder, cache: Cache) -> None:
    normalize(cache, NormalizeRequest("hub"))
    assert (casings.root / "models--Org--Name").is_dir()
    assert os.readlink(casings.root / "models--org--name") == "models--Org--Name"
    assert os.readlink(casings.root / "models--ORG--NAME") == "models--Org--Name"


def test_a_spelling_that_is_not_on_disk_is_made(built: CacheBuilder, cache: Cache) -> None:
    built.revision("ORG/NAME", A, OLD, refs=("main",))
    normalize(cache, NormalizeRequest("hub"))
    assert offline(built, "Org/Name") == offline(built, "Org/Name")
    assert os.readlink(built.root / "models--ORG--NAME") == "models--Org--Name"
    undo_last(cache)
    assert [path.name for path in built.root.iterdir()] == ["models--ORG--NAME"]


def test_from_lower_to_hub_and_back(casings: CacheBuilder, cache: Cache) -> None:
    """The alias and the folder change places, and no alias leads to an alias."""
    for to, real in (("lower", "models--org--name"), ("hub", "models--Org--Name")) * 2:
        normalize(cache, NormalizeRequest(to))
        links = {p.name: os.readlink(p) for p in casings.root.iterdir() if p.is_symlink()}
        assert set(links.values()) == {real}
        assert len(links) == 2
        assert all(offline(casings, casing).name == B for casing in CASINGS)


def test_an_unknown_spelling_is_not_guessed(casings: CacheBuilder, cache: Cache) -> None:
    before = sorted(str(path) for path in casings.root.rglob("*"))
    outcome = normalize(cache, NormalizeRequest("hub"), hub=None)
    assert "not known" in next(iter(outcome.skipped.values()))
    assert sorted(str(path) for path in casings.root.rglob("*")) == before


def test_twins_that_differ_are_left_alone(casings: CacheBuilder, cache: Cache) -> None:
    """One of them is damaged, and joining would lose the good one."""
    blob = casings.folder("Org/Name") / "blobs" / etag(WEIGHTS)
    blob.write_bytes(b"x" * len(WEIGHTS))
    before = manifest(casings.root)
    outcome = normalize(cache, NormalizeRequest("shared"))
    assert "mdl cache verify" in outcome.skipped["Org/Name"]
    assert manifest(casings.root) == before


def test_a_marker_for_a_file_that_came_is_dropped(built: CacheBuilder, cache: Cache) -> None:
    """huggingface_hub believes `.no_exist` before it looks for the file."""
    built.revision("Org/Name", A, OLD, refs=("main",))
    built.revision("org/name", A, {"config.json": b"{}"}, refs=("main",))
    marker = built.folder("org/name") / ".no_exist" / A / "w"
    marker.parent.mkdir(parents=True)
    marker.touch()
    normalize(cache, NormalizeRequest("shared"))
    assert isinstance(try_to_load_from_cache("org/name", "w", cache_dir=built.root), str)
    undo_last(cache)
    assert marker.exists()


def test_a_running_download_is_left_alone(casings: CacheBuilder, cache: Cache) -> None:
    before = sorted(str(path) for path in casings.root.rglob("*"))
    for to in ("shared", "hub"):
        with casings.downloading("org/name", b"new"):
            outcome = normalize(cache, NormalizeRequest(to))
        assert "download" in next(iter(outcome.skipped.values()))
    after = sorted(str(path) for path in casings.root.rglob("*") if ".locks" not in path.parts)
    assert after == before


def test_a_recent_unfinished_download_stops_a_fold(casings: CacheBuilder, cache: Cache) -> None:
    casings.incomplete("org/name", b"z" * 100)
    outcome = normalize(cache, NormalizeRequest("hub"))
    assert "recent" in outcome.skipped["Org/Name"]
    assert not (casings.root / "models--org--name").is_symlink()


def test_shared_payloads_keep_their_manifests(built: CacheBuilder, cache: Cache) -> None:
    """Or the next `hf cache prune` would delete what the folded casing needs."""
    from huggingface_hub.utils._shared_blobs import sweep_shared_blob, unreferenced_shared_blobs

    data = b"p" * 3000
    built.revision("org/name", A, {"w": data}, refs=("main",))
    payload = built.share("org/name", data)
    normalize(cache, NormalizeRequest("hub"))
    assert (offline(built, "Org/Name") / "w").read_bytes() == data
    assert unreferenced_shared_blobs(built.root) == {}
    assert sweep_shared_blob(payload, cache_dir=built.root) == 0
    assert (offline(built, "org/name") / "w").read_bytes() == data
    undo_last(cache)
    assert sweep_shared_blob(payload, cache_dir=built.root) == 0
    assert (offline(built, "org/name") / "w").read_bytes() == data


def test_across_joins_equal_files_of_different_repositories(
    built: CacheBuilder, cache: Cache
) -> None:
    built.revision("o/base", A, {"w": WEIGHTS, "tokenizer": b"t" * 500}, refs=("main",))
    built.revision("o/copy", B, {"w": b"other", "tokenizer": b"t" * 500}, refs=("main",))
    built.revision("o/third", C, {"w": WEIGHTS}, refs=("main",))
    before = manifest(built.root)
    outcome = normalize(cache, NormalizeRequest("shared", across=True))
    assert outcome.saved == len(WEIGHTS) + 500
    assert manifest(built.root) == before
    undo_last(cache)
    assert manifest(built.root) == before


def test_only_what_is_named_is_joined(built: CacheBuilder, cache: Cache) -> None:
    """By its name or its type; the other side of a pair may be any repository."""
    for kind in ("models", "datasets"):
        for name in ("o/one", "O/One", "o/two", "O/Two"):
            built.revision(name, A, {"w": kind.encode() * 9}, refs=("main",), kind=kind)
    built.revision("o/away", A, {"w": WEIGHTS}, refs=("main",))
    built.revision("o/far", A, {"w": WEIGHTS}, refs=("main",))

    def joined(request: NormalizeRequest) -> set[str]:
        planned = plan_normalize(cache, request, lambda kind, name: None)
        apply_normalize(cache, planned)
        found = {
            blob.parent.parent.name
            for blob in built.root.glob("*/blobs/*")
            if blob.stat().st_nlink > 1
        }
        undo_last(cache)
        return found

    one = {"models--o--one", "models--O--One"}
    two = {"models--o--two", "models--O--Two"}
    assert joined(NormalizeRequest(only="model/o/one")) == one
    assert joined(NormalizeRequest(only="model/o/one", across=True)) == one | two
    datasets = {folder.name for folder in built.root.glob("datasets--*")}
    assert joined(NormalizeRequest(repo_type="dataset")) == datasets
    assert joined(NormalizeRequest(repo_type="dataset", across=True)) == datasets
    assert joined(NormalizeRequest(repo_type="model")) == one | two


def test_store_moves_known_blobs_into_the_shared_store(built: CacheBuilder, cache: Cache) -> None:
    import hashlib
    import json

    from huggingface_hub.utils._shared_blobs import shared_blob_target, unreferenced_shared_blobs

    data = b"q" * 4000
    xet = hashlib.sha256(b"xet" + data).hexdigest()
    built.share("o/marks-the-store", b"something else")
    for name in ("o/one", "o/two"):
        built.revision(name, A, {"w": data}, refs=("main",), tree={"w": data})
        listing = built.folder(name) / "trees" / f"{A}.json"
        tree = json.loads(listing.read_text())
        tree["files"]["w"]["xet_hash"] = xet
        listing.write_text(json.dumps(tree))
    before = manifest(built.root)
    outcome = normalize(cache, NormalizeRequest("shared", store=True))
    assert outcome.saved == len(data)
    payload = built.root / "blobs" / xet[:2] / xet
    for name in ("o/one", "o/two"):
        blob = built.folder(name) / "blobs" / etag(data)
        assert shared_blob_target(blob, built.root) == payload
    assert manifest(built.root) == before
    assert payload not in unreferenced_shared_blobs(built.root)
    undo_last(cache)
    assert manifest(built.root) == before
    assert not payload.exists()


def test_without_the_swap_a_fold_says_what_can_be_done(
    casings: CacheBuilder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = manifest(casings.root)
    monkeypatch.setattr("mdl.cachemgr.journal.fileops._renameat2", lambda *_: False)
    with pytest.raises(DiskError, match="swap two folders") as caught:
        normalize(cache, NormalizeRequest("hub"))
    assert "--to shared" in caught.value.next
    assert manifest(casings.root) == before


def test_a_cache_without_links_is_joined_too(built: CacheBuilder, cache: Cache) -> None:
    """As on Windows: the files stand in the snapshots themselves."""
    for name, files in (("Org/Name", OLD), ("org/name", {"config.json": b"{}"})):
        snapshot = built.folder(name) / "snapshots" / A
        for path, data in files.items():
            (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / path).write_bytes(data)
        (built.folder(name) / "refs").mkdir()
        (built.folder(name) / "refs" / "main").write_text(A)
    normalize(cache, NormalizeRequest("shared"))
    assert (offline(built, "org/name") / "w").read_bytes() == WEIGHTS


def test_undo_that_has_no_room_changes_nothing(
    casings: CacheBuilder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalize(cache, NormalizeRequest("shared"))
    before = manifest(casings.root)
    usage = shutil.disk_usage(casings.root)._replace(free=10)
    monkeypatch.setattr("mdl.cachemgr.journal.journal.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DiskError, match="not enough disk space"):
        undo_last(cache)
    assert manifest(casings.root) == before


def test_the_listing_counts_joined_bytes_once_at_every_step(
    built: CacheBuilder, cache: Cache
) -> None:
    """How many names an inode has changes without a stamp of the folder that had it first."""
    for name, commit in (("o/first", A), ("o/second", B)):
        built.revision(name, commit, {"w": WEIGHTS}, refs=("main",))
        settle(built.root)
    sizes = []
    for act in (
        lambda: None,
        lambda: normalize(cache, NormalizeRequest("shared", across=True)),
        lambda: undo_last(cache),
        lambda: normalize(cache, NormalizeRequest("shared", across=True)),
        lambda: apply_remove(cache, plan_remove(cache, "o/second")),
        lambda: empty_trash(cache, [entry.id for entry in trash_entries(cache)]),
    ):
        act()
        totals = cache.listing()[1]
        sizes.append((totals.size_on_disk, totals.reclaimable))
    each = len(WEIGHTS)
    assert sizes == [(2 * each, 2 * each), (each, 0), (2 * each, 2 * each), (each, 0),
                     (each, 0), (each, each)]  # fmt: skip


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = open_cache(Settings(home=tmp_path / "mdl", cache_root=tmp_path / "file"))
    with pytest.raises(DiskError, match="cannot be read"):
        plan_normalize(cache, NormalizeRequest("shared"), lambda kind, name: None)
