"""Two MDL_HOMEs on one cache: what one protects, the other leaves alone; one daemon a root."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.daemon.process import Place
from mdl.cachemgr.keep_file import read_keep, shared_folder
from mdl.cachemgr.remove import (
    Policy,
    apply_prune,
    apply_remove,
    plan_prune,
    plan_remove,
    undo_last,
)
from mdl.errors import BusyError, UsageError
from mdl.settings import Settings
from tests.cachemgr.builder import DAY, A, B, CacheBuilder, manifest

OLD = Policy(older_than=DAY)


@pytest.fixture
def homes(built: CacheBuilder, tmp_path: Path) -> tuple[Cache, Cache]:
    built.revision("o/n", A, {"w": b"w"}, refs=("main",), age=9 * DAY)
    built.revision("o/other", B, {"w": b"o"}, refs=("main",), age=9 * DAY)
    first, second = (open_cache(Settings(tmp_path / name, built.root)) for name in "ab")
    assert len(plan_prune(second, OLD).remove) == 2
    return first, second


def reasons(cache: Cache) -> dict[str, str]:
    return {keep.item.repo_id: keep.reason for keep in plan_prune(cache, OLD).keep}


def test_a_pin_of_another_home_holds_until_anyone_removes_it(homes: tuple[Cache, Cache]) -> None:
    first, second = homes
    first.add_pin("model/o/n", "", "o/n")
    assert reasons(second) == {"o/n": "pinned"}
    assert [pin["repo_id"] for pin in second.pins] == ["o/n"]
    with pytest.raises(UsageError, match="pinned"):
        plan_remove(second, "o/n")
    assert second.remove_pin("model/o/n", "")
    assert reasons(second) == {}
    assert not second.remove_pin("model/o/n", "")


def test_a_lock_file_of_another_home_holds_until_it_is_deleted(
    homes: tuple[Cache, Cache], tmp_path: Path
) -> None:
    first, second = homes
    lock = tmp_path / "project" / "mdl.lock"
    lock.parent.mkdir()
    lock.write_text("")
    first.register_lock(lock, [("o/n", A)])
    assert reasons(second) == {"o/n": f"named in the lock file {lock}"}
    # Another machine or container, in which this folder is not to be seen.
    lock.parent.rename(tmp_path / "unmounted")
    assert "o/n" in reasons(second)
    (tmp_path / "unmounted").rename(lock.parent)
    lock.unlink()
    assert reasons(second) == {}


def test_what_one_home_restored_the_other_leaves_alone(homes: tuple[Cache, Cache]) -> None:
    first, second = homes
    before = manifest(first.root)
    assert apply_prune(first, plan_prune(first, OLD)).removed
    undo_last(first)
    assert manifest(first.root) == before
    for cache in homes:
        assert reasons(cache).keys() == {"o/n", "o/other"}
        assert "left alone for 7 days (undo_days)" in reasons(cache)["o/n"]
    # The grace period is prune's: what the user names goes.
    assert apply_remove(second, plan_remove(second, "o/n")).removed


@pytest.mark.parametrize("later", [lambda now: now + 8 * DAY, None])
def test_the_grace_period_ends(
    homes: tuple[Cache, Cache],
    monkeypatch: pytest.MonkeyPatch,
    later: Callable[[float], float] | None,
) -> None:
    first, _ = homes
    apply_remove(first, plan_remove(first, "o/n"))
    undo_last(first)
    if later is None:
        first.settings = first.settings._replace(cache=first.settings.cache._replace(undo_days=0.0))
    else:
        now = later(time.time())
        monkeypatch.setattr(time, "time", lambda: now)
    assert len(plan_prune(first, OLD).remove) == 2


def test_a_pin_holds_for_its_home_where_nothing_can_be_written_beside_the_cache(
    homes: tuple[Cache, Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = homes
    monkeypatch.setattr("mdl.cachemgr.keep_file._make", _denied)
    first.add_pin("model/o/n", "", "o/n")
    (note,) = first.notes
    assert "Only this MDL_HOME knows" in note
    assert reasons(first) == {"o/n": "pinned"}
    assert reasons(second) == {}


def _denied(*_: str) -> None:
    raise PermissionError


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pins": [["x"], 5, ["a", "", "a", 1.5]]}'])
def test_a_file_that_others_wrote_badly_is_no_crash(homes: tuple[Cache, Cache], text: str) -> None:
    first, second = homes
    first.add_pin("model/o/n", "", "o/n")
    folder = Path(shared_folder(str(first.root)) or "")
    (folder / "keep.json").write_text(text)
    assert len(read_keep(str(first.root))["pins"]) == text.count("1.5")
    assert reasons(second) == {}
    second.add_pin("model/o/other", "", "o/other")
    assert "o/other" in reasons(first)


def test_the_folder_is_open_to_whoever_may_write_to_the_cache(homes: tuple[Cache, Cache]) -> None:
    first, _ = homes
    os.chmod(first.root, 0o2775)
    first.add_pin("model/o/n", "", "o/n")
    folder = Path(shared_folder(str(first.root)) or "")
    assert folder.stat().st_mode & 0o7777 == 0o2775
    assert (folder / "keep.json").stat().st_mode & 0o777 == 0o664


def test_two_homes_run_one_daemon(homes: tuple[Cache, Cache]) -> None:
    first, second = (Place(cache.settings) for cache in homes)
    with first.locked():
        assert second.holder() == (os.getpid(), str(first.home))
        with pytest.raises(BusyError, match="already keeps") as refused, second.locked():
            pass
        assert f"MDL_HOME={first.home}" in refused.value.why
    assert second.holder() is None
    with second.locked():
        assert first.holder() == (os.getpid(), str(second.home))
