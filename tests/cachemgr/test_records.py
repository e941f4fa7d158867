"""What the index knows beside the disk, and what others ask the cache."""

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.layout import folder_name, root_id
from mdl.cachemgr.remove import Policy, apply_prune, apply_remove, plan_prune, plan_remove
from mdl.errors import NameRefusedError, NotFoundError, StoreError, UsageError
from mdl.settings import Settings
from mdl.store.index_file import SCHEMA_VERSION
from tests.cachemgr.builder import A, B, C, CacheBuilder, manifest, settle

FILES = {"config.json": b"{}", "w": b"w" * 100}


def test_placement_finds_any_casing(built: CacheBuilder, cache: Cache) -> None:
    snapshot = built.revision("Org/Name", A, FILES, refs=("main",), tree=FILES)
    placed = cache.placement("ORG/name")
    assert (placed.commit, placed.path, placed.bytes) == (A, snapshot, 102)
    assert placed.complete
    assert placed.spelling == "Org/Name"
    assert cache.placement("org/name", commit=A).complete
    assert cache.placement("org/name", revision="v9").state == "absent"
    assert cache.placement("org/other").path is None


def test_placement_prefers_the_whole_casing(built: CacheBuilder, cache: Cache) -> None:
    built.revision("Org/Name", A, {"config.json": b"{}"}, refs=("main",), tree=FILES)
    whole = built.revision("org/name", A, FILES, refs=("main",), tree=FILES)
    assert cache.placement("Org/Name").path == whole


def test_placement_names_what_is_missing(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, {"config.json": b"{}"}, refs=("main",), tree=FILES)
    placed = cache.placement("o/n")
    assert (placed.state, placed.missing) == ("partial", ("w",))
    assert cache.placement("o/n", allow_patterns=["*.json"]).complete
    assert not cache.placement("o/n", allow_patterns=["w"]).complete
    assert placed.to_json()["complete"] is False


def test_recorded_use_wins_over_access_times(built: CacheBuilder, cache: Cache) -> None:
    built.revision("Org/Name", A, FILES, refs=("main",))
    assert cache.repo("org/name").last_used_source == "atime"
    cache.record_use("ORG/name", A)
    repo = cache.repo("org/name")
    assert repo.last_used_source == "journal"
    assert repo.revisions[0].last_used == repo.last_used


def test_a_learnt_spelling_is_shown(built: CacheBuilder, cache: Cache) -> None:
    built.revision("org/name", A, FILES, refs=("main",))
    cache.index.put_canonical("model/org/name", "oRg/NaMe")
    assert cache.list()[0].repo_id == "oRg/NaMe"


def test_two_types_of_one_name(built: CacheBuilder, cache: Cache) -> None:
    built.revision("o/n", A, FILES)
    built.revision("o/n", B, FILES, kind="datasets")
    assert cache.repo("dataset/o/n").revisions[0].commit == B
    assert cache.repo("models/O/N").repo_type == "model"
    with pytest.raises(UsageError, match="more than one"):
        cache.repo("o/n")
    with pytest.raises(NotFoundError):
        cache.repo("space/o/n")


def test_roots_are_kept_apart(built: CacheBuilder, settings: Settings, tmp_path: Path) -> None:
    other = CacheBuilder(tmp_path / "other" / "hub")
    other.revision("o/there", C, FILES)
    built.revision("o/here", A, FILES)
    assert [repo.repo_id for repo in open_cache(settings).list()] == ["o/here"]
    assert [repo.repo_id for repo in open_cache(settings, other.root).list()] == ["o/there"]
    assert root_id(built.root) == root_id(built.root / ".." / "hub")
    assert root_id(built.root) != root_id(other.root)


def test_the_file_is_the_users_alone(built: CacheBuilder, cache: Cache) -> None:
    cache.list()
    assert stat.S_IMODE(cache.index.path.stat().st_mode) == 0o600


def test_a_newer_file_is_refused_and_left_alone(built: CacheBuilder, cache: Cache) -> None:
    cache.list()
    cache.index.close()
    with closing(sqlite3.connect(cache.index.path)) as connection, connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer mdl"):
        open_cache(cache.settings).list()


def test_without_a_place_to_write_answers_stay_right(built: CacheBuilder, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("no folder can be made below this")
    built.revision("o/n", A, FILES)
    cache = open_cache(Settings(blocker / "mdl", built.root))
    assert [repo.repo_id for repo in cache.list()] == ["o/n"]
    assert not cache.index.persistent


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a//b", "a b/c", "", "x" * 300, "a/..", "/etc"])
def test_names_that_could_be_paths_are_refused(name: str) -> None:
    with pytest.raises(NameRefusedError):
        folder_name(name)


def test_a_change_of_the_view_reads_everything_again(
    built: CacheBuilder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    built.revision("o/n", A, FILES)
    for folder, _, _ in os.walk(built.root):
        os.utime(folder, (1, 1))
    cache.list()
    monkeypatch.setattr("mdl.store.cache_index.VIEW_VERSION", 999)
    assert open_cache(cache.settings).survey().read == 1


def test_what_cannot_be_written_down_is_not_done(built: CacheBuilder, tmp_path: Path) -> None:
    """Without a journal a kill could lose a file, and undo would be a lie."""
    built.revision("Org/Name", A, FILES, refs=("main",))
    (tmp_path / "file").touch()
    cache = open_cache(Settings(home=tmp_path / "file", cache_root=built.root))
    before = manifest(built.root)
    for change in (
        lambda: cache.index.add_pin("model/org/name", "", "Org/Name"),
        lambda: cache.register_lock(tmp_path / "mdl.lock", [("Org/Name", A)]),
        lambda: apply_remove(cache, plan_remove(cache, "Org/Name")),
        lambda: apply_prune(cache, plan_prune(cache, Policy(max_size=1))),
    ):
        with pytest.raises(StoreError, match="cannot be written"):
            change()
    assert manifest(built.root) == before
    assert not list(built.root.parent.glob(".mdl-*"))
    assert cache.repo("org/name").size_on_disk == 102


def test_a_damaged_file_is_set_aside_and_said(cache: Cache, settings: Settings) -> None:
    cache.index.add_pin("model/org/name", "", "Org/Name")
    cache.index.close()
    file = Path(settings.home, "cache", f"{root_id(Path(settings.cache_root))}.db")
    file.write_bytes(b"rubbish" * 1000)
    again = open_cache(settings)
    assert again.pins == []
    (note,) = again.notes
    (kept,) = file.parent.glob("*.damaged-*")
    assert "was damaged" in note and str(kept) in note
    assert kept.read_bytes() == b"rubbish" * 1000


def test_an_index_without_room_still_lists(built: CacheBuilder, cache: Cache) -> None:
    """Its disk is full, and much changed: what is not remembered is read again."""
    (pages,) = cache.index._db.execute("PRAGMA page_count").fetchone()
    cache.index._db.execute(f"PRAGMA max_page_count = {pages}")
    many = [f"o/{number}" for number in range(50)]
    for name in many:
        built.revision(name, A, {f"file-{n}": b"" for n in range(20)}, refs=("main",))
    settle(built.root)
    for _ in range(2):
        assert sorted(repo.repo_id for repo in cache.list()) == sorted(many)
        assert cache.survey().read == len(many)
