"""The daemon as a process: real downloads, signals, its lock, its socket, its commands."""

import json
import os
import plistlib
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
from mdl.cachemgr.daemon.units import launchd_agent, systemd_unit
from mdl.settings import Settings, load_settings
from tests.daemon.conftest import make_repo, mdl, wait_for
from tests.hub import LoopbackHub


@pytest.fixture
def settings(hub_env: dict[str, str]) -> Settings:
    found = load_settings()
    found = found._replace(home=Path(found.home), cache_root=Path(found.cache_root))
    found.cache_root.mkdir(parents=True)
    return found


@pytest.fixture
def started(settings: Settings) -> Iterator[dict[str, Any]]:
    yield mdl("daemon", "start")
    if Place(settings).holder():
        mdl("daemon", "stop")


def wait_gone(pid: int) -> None:
    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_for(gone, 10)


def test_run_says_as_json_what_it_keeps(settings: Settings) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "mdl", "daemon", "run", "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
    assert (said["pid"], said["root"]) == (process.pid, str(settings.cache_root))
    assert said["mode"] in ("watching", "probing")
    assert process.returncode == 0


def test_restart_logs_and_what_status_shows(settings: Settings, started: dict[str, Any]) -> None:
    again = mdl("daemon", "restart")
    assert again["running"] and again["pid"] != started["pid"]
    make_repo(settings.cache_root, "Org/Name", {"config.json": b"{}"})
    mdl("cache", "rm", "Org/Name", "--yes")
    found = wait_for(lambda: (f := mdl("daemon", "status"))["trash"] and f, 60)
    assert (found["trash"], found["trash_days"]) == (2, 7.0)
    assert abs(found["started"] - time.time()) < 60
    assert found["last_prune"] is None
    assert found["log"] == str(Place(settings).log)
    assert any("mdl daemon keeps" in line for line in mdl("daemon", "logs")["lines"])


def test_restart_starts_one_that_was_not_there(settings: Settings) -> None:
    assert mdl("daemon", "logs")["error"]["code"] == "not_found"
    assert mdl("daemon", "restart")["running"]
    assert mdl("daemon", "stop")["rc"] == 0


def test_uninstall_removes_the_unit_and_the_link_to_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    unit = Path(mdl("daemon", "install", "--systemd")["path"])
    link = unit.parent / "default.target.wants" / unit.name
    link.parent.mkdir()
    link.symlink_to(unit)
    assert mdl("daemon", "uninstall", "--systemd", "--dry-run")["removed"] == [str(unit), str(link)]
    assert mdl("daemon", "uninstall", "--systemd")["rc"] == 2, "without a terminal it needs --yes"
    assert unit.exists()
    mdl("daemon", "uninstall", "--systemd", "--yes")
    assert not unit.exists() and not link.is_symlink()
    assert mdl("daemon", "uninstall", "--systemd", "--yes")["rc"] == 3


def test_start_status_stop(settings: Settings, started: dict[str, Any]) -> None:
    assert started["mode"] == "watching"
    assert mdl("daemon", "start")["error"]["code"] == "busy"
    found = mdl("daemon", "status")
    assert (found["pid"], found["root"]) == (started["pid"], str(settings.cache_root))
    place = Place(settings)
    assert place.socket.stat().st_mode & 0o777 == 0o600
    assert ask_daemon(place.socket, "/v1/health")["status"] == "ok"
    make_repo(settings.cache_root, "Org/Name", {"config.json": b"{}"})
    listed = ask_daemon(place.socket, "/v1/cache")
    printed = mdl("cache", "ls")
    assert listed["repos"] == printed["repos"]

    before = time.monotonic()
    assert mdl("daemon", "stop")["stopped"] == started["pid"]
    assert time.monotonic() - before < 3  # two seconds, and the command's own start
    assert mdl("daemon", "status")["rc"] == 3
    assert mdl("daemon", "stop")["rc"] == 3
    assert not place.socket.exists()


def test_no_big_library_is_in_the_process(settings: Settings, started: dict[str, Any]) -> None:
    maps = Path(f"/proc/{started['pid']}/maps").read_text()
    for name in ("torch", "sqlalchemy", "pydantic", "transformers", "numpy"):
        assert f"/{name}/" not in maps.lower()


def test_killed_it_leaves_nothing_in_the_way(settings: Settings, started: dict[str, Any]) -> None:
    os.kill(started["pid"], signal.SIGKILL)
    wait_gone(started["pid"])
    again = mdl("daemon", "start")
    assert again["running"]
    assert again["pid"] != started["pid"]


def test_downloads_in_three_casings_become_one_copy_while_it_runs(
    hub: LoopbackHub, settings: Settings, started: dict[str, Any]
) -> None:
    files = {"config.json": "{}", "model.safetensors": os.urandom(200_000)}
    hub.add_repo("Org/Name", files=files)
    program = "import sys; from huggingface_hub import snapshot_download as d; d(sys.argv[1])"
    spellings = ("Org/Name", "org/name", "ORG/NAME")
    loads = [
        subprocess.Popen([sys.executable, "-c", program, name], stderr=subprocess.PIPE)
        for name in spellings
    ]
    for load in loads:
        _, errors = load.communicate(timeout=60)
        assert load.returncode == 0, errors
    place = Place(settings)
    wait_for(lambda: ask_daemon(place.socket, "/v1/status")["repos"] == 1, 3)

    def one_copy() -> bool:
        blobs = [
            path
            for name in spellings
            for path in (settings.cache_root / f"models--{name.replace('/', '--')}/blobs").iterdir()
        ]
        return len(blobs) == 6 and len({path.stat().st_ino for path in blobs}) == 2

    wait_for(one_copy, 20)
    wait_for(lambda: mdl("cache", "ls")["repos"][0]["size_on_disk"] < 250_000, 10)
    for load in (subprocess.run([sys.executable, "-c", program, name], env={**os.environ,
                 "HF_HUB_OFFLINE": "1"}) for name in spellings):  # fmt: skip
        assert load.returncode == 0


def test_killed_again_and_again_no_byte_is_lost(settings: Settings) -> None:
    """Normalizing and pruning into the trash, with SIGKILL at moments of its own choosing."""
    config = settings.home / "config.toml"
    settings.home.mkdir(parents=True, exist_ok=True)
    config.write_text("[cache]\nnormalize = 'lower'\n")
    root = settings.cache_root
    for n in range(6):
        for name in (f"Org/Model-{n}", f"org/model-{n}"):
            make_repo(root, name, {f"file-{k}": b"%d" % n * 500 + b"%d" % k for k in range(20)})
    then = time.time() - 3600
    for path in root.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)
    before = manifest(root)
    for attempt in range(12):
        process = subprocess.Popen(
            [sys.executable, "-m", "mdl", "daemon", "run"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()  # it keeps the root now
        time.sleep(0.02 * attempt)  # not waiting for anything: choosing the moment
        process.kill()
        process.communicate()
        mdl("cache", "ls")
        assert manifest(root) == before
    mdl("daemon", "start")
    try:
        wait_for(lambda: (root / "models--Org--Model-5").is_symlink(), 30)
    finally:
        mdl("daemon", "stop")
    assert manifest(root) == before


def manifest(root: Path) -> dict[str, bytes]:
    """What a reader finds under every name, through links and aliases."""
    found = {}
    for folder in root.glob("models--*"):
        for path in folder.glob("snapshots/*/*"):
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def test_a_configuration_error_at_the_start_is_one_clear_sentence(settings: Settings) -> None:
    settings.home.mkdir(parents=True, exist_ok=True)
    (settings.home / "config.toml").write_text("[cache]\nnormalize = 'sideways'\n")
    assert mdl("daemon", "start")["error"]["code"] == "config"


def test_the_unit_and_the_agent_say_where_and_how(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "my $home", cache_root=tmp_path / "100% & more")
    unit = systemd_unit(settings, "/usr/bin/python3")
    assert 'ExecStart="/usr/bin/python3" -m mdl daemon run' in unit
    assert "100%% & more" in unit
    assert "my $$home" in unit
    for directive in ("NoNewPrivileges=yes", "RestrictAddressFamilies=AF_UNIX"):
        assert directive in unit
    agent = plistlib.loads(launchd_agent(settings, "/usr/bin/python3").encode())
    assert agent["ProgramArguments"][1:] == ["-m", "mdl", "daemon", "run"]
    assert agent["EnvironmentVariables"]["HF_HUB_CACHE"].endswith("100% & more")
