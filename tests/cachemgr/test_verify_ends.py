"""A verification shows its progress in bytes and ends within a second, whoever runs it."""

import http.client
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdl.cachemgr import open_cache
from mdl.cachemgr.verify import Verifier, select_folders
from mdl.errors import BusyError
from mdl.settings import Settings
from tests.cachemgr.builder import A, CacheBuilder
from tests.service.conftest import ADMIN, bearer, serve

__all__ = ["serve"]

SIZE = 16 << 20  # four pieces
# At one piece in 4 seconds, a reader that does not listen meanwhile is late.
THROTTLE = 1 << 20


@pytest.fixture
def large(built: CacheBuilder) -> CacheBuilder:
    built.revision("o/large", A, {"w": os.urandom(SIZE)}, refs=("main",))
    return built


@pytest.fixture
def env(large: CacheBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("HF_HUB_CACHE", str(large.root))
    monkeypatch.setenv("MDL_HOME", str(tmp_path / "mdl"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return dict(os.environ)


def read_until(fd: int, wanted: str) -> str:
    """What a terminal shows, until it shows this."""
    shown = ""
    while wanted not in shown:
        try:
            shown += os.read(fd, 4096).decode()
        except OSError:  # the other end is closed
            break
    return shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_shows_bytes_and_ends_within_a_second(env: dict[str, str], number: int) -> None:
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mdl", "cache", "verify", "--throttle", str(THROTTLE)],
        env=env, stdout=subprocess.DEVNULL, stderr=end,
        # A shell's background job ignores SIGINT, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        os.close(end)
        shown = read_until(terminal, " MB of 16.8 MB hashed")
        assert "4.2 MB of 16.8 MB hashed" in shown, "in the middle of its first file"
        start = time.monotonic()
        process.send_signal(number)
        code = process.wait(10)
        took = time.monotonic() - start
    os.close(terminal)
    assert took < 1.0
    assert code in (130, -number)


def test_a_service_ends_while_it_verifies(env: dict[str, str], serve: Callable[..., Any]) -> None:
    service = serve(MDL_SERVE_TOKENS=f"admin {ADMIN}")
    responses: list[int] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        body = json.dumps({"throttle": THROTTLE})
        headers = {"Content-Type": "application/json", **bearer(ADMIN)}
        connection.request("POST", "/v1/cache/verify", body, headers)
        responses.append(connection.getresponse().status)
        connection.close()

    asking = threading.Thread(target=ask)
    asking.start()
    while not any(_reads(service.process.pid)):
        assert asking.is_alive(), responses
        time.sleep(0.01)
    start = time.monotonic()
    code, _ = service.stop()
    took = time.monotonic() - start
    asking.join()
    assert code == 0
    assert responses in ([409], [503])
    assert took < 2.0


def _reads(pid: int) -> list[str]:
    """The blobs that a process has open."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(fd))
        except OSError:
            continue
    return [path for path in found if "/blobs/" in path]


def test_what_was_hashed_before_the_end_is_remembered(large: CacheBuilder, tmp_path: Path) -> None:
    large.revision("o/small", A, {"s": b"s"}, refs=("main",))
    cache = open_cache(Settings(tmp_path / "mdl", large.root))
    stop = threading.Event()

    def progress(done: int, total: int) -> None:
        assert total == SIZE + 1
        if done >= SIZE:
            stop.set()

    verifier = Verifier(str(large.root), cache.index, workers=1, progress=progress, stop=stop)
    with pytest.raises(BusyError, match="stopped"):
        verifier.run(select_folders(cache, ()))
    again = Verifier(str(large.root), cache.index).run(select_folders(cache, ()))
    assert (again.skipped, again.checked) in ((1, 1), (2, 0))


def test_a_run_that_fails_ends_its_own_threads_and_not_its_callers_other_runs(
    large: CacheBuilder, settings: Settings
) -> None:
    stop, root = threading.Event(), str(large.root)
    cache = open_cache(settings, large.root)

    def fail(done: int, total: int) -> None:
        raise ValueError("a bug")

    folders = select_folders(cache, (), None)
    started = time.monotonic()
    with pytest.raises(ValueError, match="a bug"):
        Verifier(root, cache.index, rate=THROTTLE, progress=fail, stop=stop).run(folders)
    assert time.monotonic() - started < 3
    assert Verifier(root, cache.index, stop=stop).run(folders).checked == 1
