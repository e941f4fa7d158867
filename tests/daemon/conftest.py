"""Caches for the daemon's tests, and the daemon as a process of its own."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mdl.cachemgr.daemon.loop import DaemonLoop
from mdl.settings import CacheSettings, Settings


def make_repo(root: Path, name: str, files: dict[str, bytes], *, age: float = 3600.0) -> Path:
    """A repository in a cache, last written `age` seconds ago."""
    folder = root / f"models--{name.replace('/', '--')}"
    commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
    snapshot = folder / "snapshots" / commit
    for sub in (folder / "blobs", folder / "refs", snapshot):
        sub.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / path).symlink_to(f"../../blobs/{blob.name}")
        os.utime(blob, (time.time() - age, time.time() - age))
    (folder / "refs" / "main").write_text(commit)
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "hf" / "hub").mkdir(parents=True)
    return Settings(home=tmp_path / "mdl", cache_root=tmp_path / "hf" / "hub")


MakeLoop = Callable[..., DaemonLoop]


@pytest.fixture
def make_loop(settings: Settings) -> Iterator[MakeLoop]:
    """A loop of the test's root under these cache settings, not running by itself."""
    made: list[DaemonLoop] = []

    def run(**cache: Any) -> DaemonLoop:
        wanted = settings._replace(cache=CacheSettings(**cache))
        made.append(DaemonLoop(wanted, lambda: wanted))
        return made[-1]

    yield run
    for loop in made:
        loop.close()


def mdl(*args: str) -> dict[str, Any]:
    """Run an mdl command with --json; its object."""
    done = subprocess.run(
        [sys.executable, "-m", "mdl", *args, "--json"], capture_output=True, text=True, timeout=60
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "rc": done.returncode}


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
    return value
