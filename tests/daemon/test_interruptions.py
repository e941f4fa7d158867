"""The real process, interrupted: ended in the middle, stopped and continued, its clock moved."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mdl.cachemgr.daemon.process import Place
from mdl.cachemgr.daemon.status_socket import ask_daemon
from mdl.settings import Settings, load_settings
from tests.daemon.conftest import make_repo, mdl, wait_for

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
DAY = 86400


@pytest.fixture
def settings(hub_env: dict[str, str]) -> Settings:
    found = load_settings()
    found = found._replace(home=Path(found.home), cache_root=Path(found.cache_root))
    found.cache_root.mkdir(parents=True)
    found.home.mkdir(parents=True, exist_ok=True)
    return found


class Daemon:
    """`mdl daemon run` as a process of its own."""

    def __init__(self, settings: Settings, **env: str) -> None:
        self.socket = Place(settings).socket
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mdl", "daemon", "run"],
            env={**os.environ, **env},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert "keeps" in self.process.stdout.readline()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = ask_daemon(self.socket, "/v1/status")
        return found

    def sees(self, repos: int) -> None:
        wait_for(lambda: self.status()["repos"] == repos, 5)

    def end(self) -> float:
        """Seconds from SIGTERM to the end, which must be one."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=10)
        assert self.process.returncode == 0
        return time.monotonic() - start


@pytest.fixture
def daemon(settings: Settings) -> Iterator[Daemon]:
    running = Daemon(settings)
    yield running
    if running.process.poll() is None:
        running.end()


def contents(root: Path) -> dict[str, bytes]:
    """What a reader finds under every name."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.glob("models--*/snapshots/*/*")
    }


def configure(settings: Settings, text: str) -> None:
    """Replaced in one step, as an editor saves."""
    made = settings.home / "config.new"
    made.write_text(f"[cache]\n{text}\n")
    made.replace(settings.home / "config.toml")


def fill(root: Path, count: int, *spellings: str) -> dict[str, bytes]:
    for n in range(count):
        for name in spellings:
            make_repo(root, name.format(n), {f"file-{k}": b"%d of %d" % (k, n) for k in range(3)})
    then = time.time() - 3600
    for path in root.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)
    return contents(root)


@pytest.mark.parametrize(
    ("rule", "spellings"),
    [
        ("max_size = 1", ("Org/Model-{}",)),
        ("normalize = 'lower'", ("Org/Model-{}", "org/model-{}")),
    ],
)
def test_sigterm_in_the_middle_of_a_long_action(
    settings: Settings, rule: str, spellings: tuple[str, ...]
) -> None:
    root = settings.cache_root
    configure(settings, rule)
    before = fill(root, 400, *spellings)
    first = [path for path in root.iterdir() if path.name.startswith("models--Org")]
    daemon = Daemon(settings)
    # Begun: a folder was moved away or became an alias. Not done: others were not.
    wait_for(lambda: any(path.is_symlink() or not path.exists() for path in first), 30)
    assert any(path.exists() and not path.is_symlink() for path in first)
    assert daemon.end() < 2.5

    listed = mdl("cache", "ls")  # takes back or finishes what was begun
    assert listed["rc"] == 0
    configure(settings, "normalize = 'off'")
    for entry in mdl("cache", "trash", "ls")["entries"]:
        assert mdl("cache", "trash", "restore", str(entry["id"]))["rc"] == 0
    found = contents(root)
    assert {name for name in before if found.get(name) != before[name]} == set()
    assert mdl("cache", "verify", "--again")["rc"] == 0


def test_after_a_sleep_it_knows_what_changed_meanwhile(settings: Settings, daemon: Daemon) -> None:
    root = settings.cache_root
    fill(root, 2, "Org/Model-{}")
    daemon.sees(2)
    daemon.process.send_signal(signal.SIGSTOP)
    shutil.rmtree(root / "models--Org--Model-0")
    first, second = (make_repo(root, name, {"m": b"w"}) for name in ("New/Name", "new/name"))
    make_repo(root, "New/Other", {"m": b"o"})
    wait_for(lambda: b"T (stopped)" in Path(f"/proc/{daemon.process.pid}/status").read_bytes())
    daemon.process.send_signal(signal.SIGCONT)
    daemon.sees(3)
    wait_for(lambda: one_inode(first, second), 20)
    assert daemon.status()["last_error"] is None


def one_inode(*folders: Path) -> bool:
    return len({blob.stat().st_ino for folder in folders for blob in (folder / "blobs").iterdir()}
               ) == 1  # fmt: skip


@pytest.mark.system("faketime")
def test_a_clock_that_jumps_changes_nothing_but_the_clock(
    settings: Settings, tmp_path: Path
) -> None:
    root, clock = settings.cache_root, tmp_path / "clock"
    configure(settings, "unused_for = '30d'")
    fill(root, 1, "Org/Model-{}")
    clock.write_text("+0")
    daemon = Daemon(
        settings, LD_PRELOAD=str(FAKETIME[0]), FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1", FAKETIME_DONT_FAKE_MONOTONIC="1",
    )  # fmt: skip
    try:
        daemon.sees(1)
        for n, jump in enumerate((+10 * DAY, -10 * DAY, 0)):
            clock.write_text(f"{jump:+d}")
            pair = [make_repo(root, name, {"m": b"%d" % n}) for name in (f"A/B-{n}", f"a/b-{n}")]
            daemon.sees(2 + n)
            wait_for(lambda pair=pair: one_inode(*pair), 20)
            change = daemon.status()["last_change"]
            assert abs(change - time.time() - jump) < 60  # the clock did jump, in that process
        assert daemon.status()["last_error"] is None
        assert daemon.status()["done"]["pruned"] == 0
    finally:
        assert daemon.end() < 2.5


def test_the_root_may_be_deleted_and_made_again(settings: Settings, daemon: Daemon) -> None:
    root = settings.cache_root
    fill(root, 2, "Org/Model-{}")
    daemon.sees(2)
    shutil.rmtree(root)
    daemon.sees(0)
    assert daemon.status()["mode"] == "probing"
    fill(root, 1, "Org/Again-{}")
    daemon.sees(1)
    assert (daemon.status()["mode"], daemon.status()["last_error"]) == ("watching", None)


def test_a_config_error_on_reload_is_told_and_the_configuration_before_it_stays(
    settings: Settings,
) -> None:
    configure(settings, "max_size = '1GB'")
    daemon = Daemon(settings)
    try:
        configure(settings, "max_size = 'much'")
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: daemon.status()["config_error"], 10)
        assert daemon.status()["max_size"] == 10**9
        assert "max_size" in mdl("daemon", "status")["config_error"]
        configure(settings, "max_size = '2GB'")  # without a signal: noticed by the file's time
        wait_for(lambda: daemon.status()["max_size"] == 2 * 10**9, 10)
        assert daemon.status()["config_error"] is None
    finally:
        daemon.end()
