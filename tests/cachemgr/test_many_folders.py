"""A first look at many folders: several processes read them, and say what one would."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from mdl.cachemgr import reread
from mdl.cachemgr.summary import Summary
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
    monkeypatch.setattr(threading, "active_count", lambda: 1)


def read(root: Path, names: list[str]) -> list[Summary]:
    found = list(reread.read_folders(str(root), names, marked=False))
    assert sorted(row[0] for _, row in found) == names
    return sorted((summary for summary, _ in found), key=lambda summary: summary.name)


def as_json(summaries: list[Summary]) -> list[object]:
    """Lists for tuples, as the index keeps them."""
    import json

    return [json.loads(json.dumps(summary)) for summary in summaries]


def test_several_processes_say_what_one_says(
    built: CacheBuilder, names: list[str], request: pytest.FixtureRequest
) -> None:
    alone = read(built.root, names)
    request.getfixturevalue("forking")
    assert len(reread._shares(names)) > 1
    assert as_json(read(built.root, names)) == as_json(alone)
    assert any(summary.problems for summary in alone)


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
    assert as_json(read(built.root, names)) == as_json(alone)


def test_nobody_is_left_behind_when_the_reader_stops(
    built: CacheBuilder, names: list[str], forking: None
) -> None:
    reading = reread.read_folders(str(built.root), names, marked=False)
    next(reading)
    reading.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_process_with_threads_does_not_fork(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reread, "_WORTH_A_PROCESS", 2)
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert reread._shares(names) == [names]
    finally:
        done.set()
        other.join()
