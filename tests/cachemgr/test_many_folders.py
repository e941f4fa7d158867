"""Many folders: several processes look at them, and say what one would."""

import errno
import json
import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest

from mdl.cachemgr.index import refresh as index
from mdl.cachemgr.index import rescan as reread
from mdl.cachemgr.index.grouping import Summary, parse_summaries
from mdl.cachemgr.scan import parallel as forked
from mdl.cachemgr.scan.folder import scan_folder
from tests.cachemgr.builder import A, CacheBuilder

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="one process is all there is",
)


@pytest.fixture
def names(built: CacheBuilder) -> list[str]:
    for number in range(12):
        built.revision(f"Org/Model-{number}", A, {"w": b"x" * number, "ü": b"y"}, refs=("main",))
    broken = built.folder("Org/Model-3") / "blobs"
    for blob in broken.iterdir():
        blob.unlink()
    (built.root / os.fsdecode(b"models--o--\xff")).mkdir()
    return sorted(os.listdir(built.root))


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few folders are worth a process; threads that other tests' clients left do not count."""
    monkeypatch.setattr(reread, "_WORTH_A_PROCESS", 2)
    monkeypatch.setattr(index, "_WORTH_A_PROCESS", 2)
    monkeypatch.setattr(threading, "active_count", lambda: 1)


def read(root: Path, names: list[str]) -> list[Summary]:
    found = sorted(reread.read_folders(str(root), names, marked=False))
    assert [row[0] for row in found] == names
    return parse_summaries(names, [row.facts for row in found])


def moved(root: Path, rows: list[tuple[str, str]]) -> list[str]:
    return sorted(index._moved(str(root), rows))


def test_several_processes_say_what_one_says(
    built: CacheBuilder, names: list[str], request: pytest.FixtureRequest
) -> None:
    alone = read(built.root, names)
    request.getfixturevalue("forking")
    assert len(forked._shares(names, 2)) > 1
    assert read(built.root, names) == alone
    assert any(summary.problems for summary in alone)


def test_several_processes_see_the_changes_that_one_sees(
    built: CacheBuilder, names: list[str], request: pytest.FixtureRequest
) -> None:
    rows = [
        (name, json.dumps(scan_folder(str(built.root), name, marked=False).probes))
        for name in names
    ]
    for name in (names[1], names[4], names[-1]):
        (built.root / name / "refs").mkdir(exist_ok=True)
        (built.root / name / "refs" / "new").write_text(A)
    (built.root / names[2]).rename(built.root / "away")
    expected = sorted([names[1], names[2], names[4], names[-1]])
    assert moved(built.root, rows) == expected
    request.getfixturevalue("forking")
    assert len(forked._shares(rows, 2)) > 1
    assert moved(built.root, rows) == expected


def test_a_process_that_is_killed_costs_nothing(
    built: CacheBuilder,
    names: list[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = read(built.root, names)
    request.getfixturevalue("forking")
    parent, read_one = os.getpid(), reread.read_folder

    def dies_elsewhere(*args: object, **options: object) -> object:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_one(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reread, "read_folder", dies_elsewhere)
    assert read(built.root, names) == alone


def test_where_no_process_is_to_be_had_one_does_it_all(
    built: CacheBuilder, names: list[str], forking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's limit on processes, reached after the first of two or more."""
    alone = read(built.root, names)
    monkeypatch.setattr(forked, "_shares", lambda items, worth: [items[n::4] for n in range(4)])
    fork, made = os.fork, []

    def one_only() -> int:
        if made:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        made.append(True)
        return fork()

    monkeypatch.setattr(os, "fork", one_only)
    descriptors = len(os.listdir("/proc/self/fd"))
    before = psutil.Process().children()
    assert read(built.root, names) == alone
    assert made
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert psutil.Process().children() == before


def test_nobody_is_left_behind_when_the_reader_stops(
    built: CacheBuilder, names: list[str], forking: None
) -> None:
    before = psutil.Process().children()
    reading = forked.in_processes(list, names, worth=2)
    next(reading)
    reading.close()
    assert psutil.Process().children() == before


def test_a_process_with_threads_does_not_fork(
    names: list[str],
) -> None:
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert forked._shares(names, 2) == [names]
    finally:
        done.set()
        other.join()
