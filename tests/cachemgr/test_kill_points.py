"""Killed after any single change to the disk or the journal: nothing a snapshot showed is lost.

Each case is run again and again in a forked process that gets SIGKILL after its first change,
then after its second, and so on until it survives. After every kill the next command settles
what was left, and every snapshot must show what it showed before, or what it should show
afterwards; then the action is done once more, and undone.
"""

import contextlib
import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mdl.cachemgr import Cache, open_cache
from mdl.cachemgr.journal import fileops
from mdl.cachemgr.normalize import NormalizeRequest, apply_normalize, plan_normalize
from mdl.cachemgr.remove import (
    Policy,
    apply_prune,
    apply_remove,
    empty_trash,
    plan_prune,
    plan_remove,
    trash_entries,
    undo_last,
)
from mdl.settings import Settings
from mdl.store.cache_index import CacheIndex
from tests.cachemgr.builder import DAY, A, B, C, CacheBuilder, manifest

SHARED = b"shared payload" * 50


def populate(root: Path) -> None:
    """Two casings, a shared payload, hard links, subfolders, an alias, a broken-off download."""
    built = CacheBuilder(root)
    old = {"config.json": b"{}", "w": b"old" * 30, "sub/deep/t": b"t"}
    new = {"config.json": b"{}", "w": b"new" * 30, "shared": SHARED}
    built.revision("Org/Name", A, old, tree=old)
    built.revision("Org/Name", B, new, refs=("main", "refs/pr/1"), tree=new)
    built.revision("org/name", B, new, refs=("main",))
    built.revision("org/name", C, {"w": b"third"})
    built.revision("o/gone", A, {"w": b"all of it goes", "shared": SHARED})
    for name in ("Org/Name", "o/gone"):
        built.share(name, SHARED)
    listing = built.folder("Org/Name") / "trees" / f"{B}.json"
    tree = json.loads(listing.read_text())
    tree["files"]["w"]["xet_hash"] = "e" * 64
    listing.write_text(json.dumps(tree))
    (root / "models--O--Gone").symlink_to("models--o--gone")
    marker = built.folder("Org/Name") / ".no_exist" / A / "adapter_config.json"
    marker.parent.mkdir(parents=True)
    marker.touch()
    built.incomplete("Org/Name", b"z" * 99, age=DAY)


@dataclass(frozen=True)
class Case:
    """`before` prepares, `act` is killed; `undone` says that undo gives back the beginning."""

    act: Callable[[Cache], object]
    before: Callable[[Cache], object] = lambda cache: None
    undone: bool = True


def prune(cache: Cache) -> None:
    apply_prune(cache, plan_prune(cache, Policy(detached=True, incomplete=True)))


def remove(target: str) -> Callable[[Cache], object]:
    return lambda cache: apply_remove(cache, plan_remove(cache, target))


def normalize(request: NormalizeRequest) -> Callable[[Cache], object]:
    return lambda cache: apply_normalize(
        cache, plan_normalize(cache, request, lambda kind, name: "Org/Name")
    )


def empty_all(cache: Cache) -> None:
    empty_trash(cache, [entry.id for entry in trash_entries(cache)])


CASES = {
    "prune": Case(prune),
    "prune everything": Case(
        lambda cache: apply_prune(cache, plan_prune(cache, Policy(max_size=0)))
    ),
    "rm repository": Case(remove("Org/Name")),
    "rm revision": Case(remove("org/name@main")),
    "rm file": Case(remove("Org/Name:config.json")),
    "undo": Case(undo_last, before=prune, undone=False),
    "undo of a repository": Case(undo_last, before=remove("Org/Name"), undone=False),
    "trash empty": Case(empty_all, before=prune, undone=False),
    "normalize shared": Case(normalize(NormalizeRequest("shared"))),
    "normalize hub": Case(normalize(NormalizeRequest("hub"))),
    "normalize lower": Case(normalize(NormalizeRequest("lower"))),
    "normalize across": Case(normalize(NormalizeRequest("shared", across=True, store=True))),
    "undo of sharing": Case(undo_last, before=normalize(NormalizeRequest("shared")), undone=False),
    "undo of folding": Case(undo_last, before=normalize(NormalizeRequest("hub")), undone=False),
}


@contextlib.contextmanager
def killed_after(count: int) -> Iterator[None]:
    """Within: SIGKILL right after the `count`-th change to the disk or commit to the journal."""
    left = count
    transaction = CacheIndex.transaction

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def counted(self: CacheIndex, *, durable: bool = False) -> Iterator[None]:
        with transaction(self, durable=durable):
            yield
        step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fileops, "after_step", step)
        patch.setattr(CacheIndex, "transaction", counted)
        yield


def survives(settings: Settings, act: Callable[[Cache], object], count: int) -> bool:
    """Run an act in a process that is killed after `count` changes; did it end by itself?"""
    with warnings.catch_warnings():
        # A parallel test run has a thread of its own; the child uses none of what it may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            with killed_after(count):
                act(open_cache(settings))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"failed before change {count}"
    return not os.WIFSIGNALED(status)


def fresh(path: Path, case: Case) -> Settings:
    settings = Settings(home=path / "mdl", cache_root=path / "hf" / "hub")
    populate(settings.cache_root)
    case.before(open_cache(settings))
    return settings


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is here: neither waiting for downloads nor asking /proc for readers is needed."""
    monkeypatch.setattr("mdl.cachemgr.remove.operations.LATE_POINTER_SECONDS", 0.0)
    for user in ("remove.prune", "remove.rm", "normalize.execute"):
        monkeypatch.setattr(f"mdl.cachemgr.{user}.list_open_files", lambda root: {})


@pytest.mark.parametrize("name", CASES)
def test_every_kill_point(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    whole = fresh(tmp_path / "whole", case)
    original = manifest(whole.cache_root)
    case.act(open_cache(whole))
    wanted = manifest(whole.cache_root)
    count = 0
    while True:
        count += 1
        settings = fresh(tmp_path / str(count), case)
        done = survives(settings, case.act, count)
        cache = open_cache(settings)
        cache.list()
        assert not cache.index.actions("running", "undoing", "emptying")
        now = manifest(settings.cache_root)
        assert now in (original, wanted), f"after change {count}"
        assert not [path for path in settings.cache_root.rglob("*") if "tmp-" in path.name]
        if done:
            break
        if case.undone and now == original and count % 4 == 1:
            case.act(cache)
            assert manifest(settings.cache_root) == wanted
            undo_last(cache)
            assert manifest(settings.cache_root) == original
    assert count > 3
    print(f"{name}: {count - 1} kill points")


def test_a_recovery_that_is_killed_is_recovered(tmp_path: Path) -> None:
    """Kill a prune in its middle, then the recovery after each of its own changes."""
    case = CASES["prune"]
    count = 0
    while True:
        count += 1
        settings = fresh(tmp_path / str(count), case)
        original = manifest(settings.cache_root)
        assert not survives(settings, case.act, 12)
        done = survives(settings, lambda cache: cache.list(), count)
        open_cache(settings).list()
        assert manifest(settings.cache_root) == original
        if done:
            break
    assert count > 5


def test_a_kill_while_erasing_is_finished(tmp_path: Path) -> None:
    settings = fresh(tmp_path, CASES["trash empty"])
    assert not survives(settings, empty_all, 6)
    cache = open_cache(settings)
    cache.list()
    assert trash_entries(cache) == []
    assert cache.notes == ["An interrupted emptying of the trash was finished."]
