"""Plans are made from the index: right, and without reading again what did not change."""

import os
import time

import pytest

from mdl.cachemgr import Cache
from mdl.cachemgr.index import ORPHANS
from mdl.cachemgr.index.breakdown import Part, break_down
from mdl.cachemgr.normalize import NormalizeRequest, plan_normalize
from mdl.cachemgr.remove import Policy, apply_prune, plan_prune
from mdl.cachemgr.scan import scan_folder
from tests.cachemgr.builder import DAY, A, B, C, CacheBuilder, disk_use, settle

DETACHED = Policy(detached=True)


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a folder is read."""

    def refuse(root: str, name: str, *, marked: bool) -> None:
        pytest.fail(f"{name} was read")

    for reader in ("index.rescan", "remove.prune", "normalize.plan"):
        monkeypatch.setattr(f"mdl.cachemgr.{reader}.scan_folder", refuse)


def test_a_plan_reads_no_folder_that_did_not_change(
    built: CacheBuilder, cache: Cache, request: pytest.FixtureRequest
) -> None:
    built.revision("o/n", A, {"same": b"s" * 100, "old": b"o" * 1000})
    built.revision("o/n", B, {"same": b"s" * 100}, refs=("main",))
    (built.root / "models--O--N").symlink_to("models--o--n")
    settle(built.root)
    cache.list()
    request.getfixturevalue("no_reading")
    assert [remove.bytes for remove in plan_prune(cache, DETACHED).remove] == [1000]
    for to, spelling in (("shared", None), ("hub", "o/n"), ("lower", None)):
        plan = plan_normalize(cache, NormalizeRequest(to), lambda kind, name, s=spelling: s)
        assert plan.groups == ()


def test_normalize_reads_only_what_has_several_casings(
    built: CacheBuilder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("o/one", "o/two", "O/Two"):
        built.revision(name, A, {"w": b"1"}, refs=("main",))
    settle(built.root)
    cache.list()
    read: list[str] = []

    def note(root: str, name: str, *, marked: bool) -> object:
        read.append(name)
        return scan_folder(root, name, marked=marked)

    monkeypatch.setattr("mdl.cachemgr.normalize.plan.scan_folder", note)
    (group,) = plan_normalize(cache, NormalizeRequest(), lambda kind, name: None).groups
    assert sorted(read) == sorted(group.folders) == ["models--O--Two", "models--o--two"]


@pytest.mark.parametrize("policy", [Policy(unused_for=30 * DAY), Policy(max_size=1500)])
def test_a_use_that_moved_no_stamp_still_counts(
    built: CacheBuilder, cache: Cache, policy: Policy
) -> None:
    """Reading a file moves its access time alone, which the index does not see."""
    for name, age in (("o/a", 50 * DAY), ("o/b", 40 * DAY)):
        built.revision(name, A, {"w": name.encode() * 300}, refs=("main",), age=age)
    settle(built.root)
    cache.list()
    (blob,) = (built.folder("o/a") / "blobs").iterdir()
    os.utime(blob, (time.time(), blob.stat().st_mtime))
    assert [remove.item.repo_id for remove in plan_prune(cache, policy).remove] == ["o/b"]


def test_bytes_go_with_the_last_revision_that_needs_them(built: CacheBuilder, cache: Cache) -> None:
    """Some in one revision, some in two or three, two names of one inode, and an orphan."""
    every, two = b"every" * 100, b"two" * 100
    built.revision("o/n", A, {"every": every, "two": two, "a": b"a"})
    built.revision("o/n", B, {"every": every, "two": two, "copy": b"copy"})
    built.revision("o/n", C, {"every": every, "c": b"cc"}, refs=("main",))
    folder = built.folder("o/n")
    orphan = built.blob(folder, b"orphan")
    second = orphan.with_name("f" * 64)
    os.link(orphan, second)
    built.pointer(folder / "snapshots" / B, "linked", second.name)
    read = scan_folder(str(built.root), folder.name, marked=False)
    place = {snapshot.commit: number for number, snapshot in enumerate(read.snapshots)}
    sizes = {tuple(sorted(part.holders)): part.size for part in break_down(read).parts}
    assert sizes == {
        tuple(sorted(place.values())): len(every),
        tuple(sorted((place[A], place[B]))): len(two),
        (place[A],): len(b"a"),
        (place[B],): len(b"copy"),
        (place[C],): len(b"cc"),
        (ORPHANS, place[B]): len(b"orphan"),
    }
    before = disk_use(built.root)
    plan = plan_prune(cache, DETACHED)
    assert plan.freed == len(two + b"a" + b"copy" + b"orphan")
    assert apply_prune(cache, plan).freed == plan.freed == before - disk_use(built.root)


def test_a_name_outside_the_folder_is_counted(built: CacheBuilder) -> None:
    built.revision("o/n", A, {"w": b"12345"})
    (blob,) = (built.folder("o/n") / "blobs").iterdir()
    os.link(blob, built.root.parent / "elsewhere")
    (part,) = break_down(scan_folder(str(built.root), "models--o--n", marked=False)).parts
    assert part == Part([0], 5, (os.stat(blob).st_dev, os.stat(blob).st_ino), links=2, here=1)
