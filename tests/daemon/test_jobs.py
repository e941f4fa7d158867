"""What the daemon does about a change, job by job."""

import fcntl
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest

from mdl.cachemgr.daemon.loop import DaemonLoop
from mdl.cachemgr.remove import plan_prune, trash_entries, undo_last
from mdl.settings import Settings
from tests.daemon.conftest import MakeLoop, make_repo, wait_for

MODEL = {"config.json": b"{}", "model.safetensors": b"weights" * 1000}


def quiet(root: Path) -> None:
    """As if the last download had ended a minute ago."""
    then = time.time() - 60
    for path in root.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def one_copy(*folders: Path) -> bool:
    inodes = [{p.stat().st_ino for p in (f / "blobs").iterdir()} for f in folders]
    return all(found == inodes[0] for found in inodes)


def test_the_index_follows_a_change(make_loop: MakeLoop, settings: Settings) -> None:
    loop = make_loop()
    loop.run("look")
    make_repo(settings.cache_root, "Org/Name", MODEL)
    loop.run("look")
    assert loop.status()["repos"] == 1
    shutil.rmtree(settings.cache_root / "models--Org--Name")
    loop.run("look")
    assert loop.status()["repos"] == 0


def test_a_new_casing_becomes_one_copy_once_it_is_quiet(
    make_loop: MakeLoop, settings: Settings
) -> None:
    loop = make_loop()
    first = make_repo(settings.cache_root, "Org/Name", MODEL)
    second = make_repo(settings.cache_root, "org/name", MODEL)
    locks = settings.cache_root / ".locks" / "models--org--name"
    locks.mkdir(parents=True)
    lock = locks / "etag.lock"
    lock.touch()
    loop.run("look")
    assert not one_copy(first, second)  # written just now: a download may go on

    quiet(settings.cache_root)
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        loop.run("look")
        assert not one_copy(first, second)
    loop.run("look")
    assert one_copy(first, second)
    assert loop.status()["done"]["normalized"] == 1


@pytest.mark.parametrize("to", ["off", "lower"])
def test_casings_follow_the_configuration(make_loop: MakeLoop, settings: Settings, to: str) -> None:
    loop = make_loop(normalize=to)
    first = make_repo(settings.cache_root, "Org/Name", MODEL)
    second = make_repo(settings.cache_root, "org/name", MODEL)
    quiet(settings.cache_root)
    loop.run("look")
    assert first.is_symlink() == (to == "lower")
    assert (second / "snapshots").is_dir()


def test_over_the_budget_the_least_recently_used_goes_to_the_trash_and_pins_stay(
    make_loop: MakeLoop, settings: Settings
) -> None:
    loop = make_loop(max_size=15_000)
    day = 86400.0
    old = make_repo(settings.cache_root, "Org/Old", {"m": b"o" * 8000}, age=90 * day)
    pinned = make_repo(settings.cache_root, "Org/Pinned", {"m": b"p" * 8000}, age=99 * day)
    loop.cache.index.add_pin("model/org/pinned", "", "Org/Pinned")
    new = make_repo(settings.cache_root, "Org/New", {"m": b"n" * 4000}, age=day)
    loop.run("look")
    assert not old.exists()
    assert pinned.exists()
    assert new.exists()
    (entry,) = trash_entries(loop.cache)
    assert entry.bytes == 8000


def test_a_budget_that_cannot_be_met_is_told_and_not_tried_every_second(
    make_loop: MakeLoop, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(max_size=1000)
    make_repo(settings.cache_root, "Org/Pinned", {"m": b"p" * 8000})
    loop.cache.index.add_pin("model/org/pinned", "", "Org/Pinned")
    planned: list[object] = []
    monkeypatch.setattr(
        "mdl.cachemgr.daemon.loop.plan_prune", lambda c, p: planned.append(p) or plan_prune(c, p)
    )
    for _ in range(5):
        loop.run("probe")
    assert len(planned) == 1
    assert loop.status()["short"] > 0


def test_below_the_floor_the_trash_is_emptied_and_the_oldest_goes(
    make_loop: MakeLoop, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk's free space is scripted: what is there, less what the root and the trash hold."""
    loop = make_loop(keep_free=10_000)
    old = make_repo(settings.cache_root, "Org/Old", {"m": b"o" * 6000}, age=90 * 86400.0)
    new = make_repo(settings.cache_root, "Org/New", {"m": b"n" * 6000})
    usage = namedtuple("usage", "total used free")

    def disk_usage(_: object) -> object:
        files = settings.cache_root.parent.rglob("*")
        held = sum(p.lstat().st_size for p in files if p.is_file() and not p.is_symlink())
        return usage(30_000, held, 20_000 - held)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    assert disk_usage(None).free < 10_000  # type: ignore[attr-defined]
    loop.run("floor")
    assert disk_usage(None).free >= 10_000  # type: ignore[attr-defined]
    assert not old.exists()
    assert new.exists()
    assert trash_entries(loop.cache) == []


def test_what_a_process_has_open_is_journalled_for_its_revision(
    make_loop: MakeLoop, settings: Settings
) -> None:
    import subprocess
    import sys

    loop = make_loop()
    folder = make_repo(settings.cache_root, "Org/Name", MODEL)
    make_repo(settings.cache_root, "Org/Other", MODEL)
    (snapshot,) = (folder / "snapshots").iterdir()
    program = "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0,\
 access=mmap.ACCESS_READ); f.close(); print('mapped', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(snapshot / "model.safetensors")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as reader:  # fmt: skip
        assert reader.stdout is not None
        reader.stdout.readline()
        loop.run("use")
        loop.run("use")
        assert reader.stdin is not None
        reader.stdin.close()
    used = [(key, commit) for key, commit, _ in loop.cache.index.used()]
    assert used == [("model/org/name", snapshot.name)]
    assert loop.status()["done"]["uses"] == 1


def test_the_root_may_go_and_come_again(make_loop: MakeLoop, settings: Settings) -> None:
    loop = make_loop()
    loop.start()
    make_repo(settings.cache_root, "Org/Name", MODEL)
    loop.run("look")
    shutil.rmtree(settings.cache_root)
    loop.run("look")
    assert loop.status()["repos"] == 0
    assert loop.status()["mode"] == "probing"
    make_repo(settings.cache_root, "Org/Again", MODEL)
    loop.run("look")
    assert loop.status()["repos"] == 1
    assert loop.status()["mode"] == "watching"
    assert loop.status()["last_error"] is None


def test_a_broken_configuration_is_told_and_changes_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdl.settings import load_settings

    settings.home.mkdir()
    monkeypatch.setenv("MDL_HOME", str(settings.home))
    config = settings.home / "config.toml"
    env = {"MDL_HOME": str(settings.home), "HF_HUB_CACHE": str(settings.cache_root)}
    config.write_text("[cache]\nmax_size = '1GB'\n")
    loop = DaemonLoop(load_settings(env), lambda: load_settings(env))
    try:
        for text, size, broken in (
            ("[cache]\nmax_size = 'much'\n", 10**9, True),
            ("not toml", 10**9, True),
            ("[cache]\nmax_size = '2GB'\n", 2 * 10**9, False),
        ):
            config.unlink()
            config.write_text(text)
            loop.run("config")
            assert loop.status()["max_size"] == size
            assert bool(loop.status()["config_error"]) == broken
    finally:
        loop.close()


def test_a_job_that_fails_is_told_and_the_next_one_runs(
    make_loop: MakeLoop, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop()
    settings.cache_root.rmdir()
    settings.cache_root.write_text("a file in the root's place")
    loop.run("probe")
    assert "cannot be read" in loop.status()["last_error"]
    settings.cache_root.unlink()
    make_repo(settings.cache_root, "Org/Name", MODEL)
    loop.run("probe")
    assert loop.status()["repos"] == 1


def test_old_trash_is_emptied_after_its_grace_period(
    make_loop: MakeLoop, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(max_size=1, trash_days=7.0)
    make_repo(settings.cache_root, "Org/Name", MODEL)
    loop.run("probe")
    assert trash_entries(loop.cache)
    loop.run("tidy")
    assert trash_entries(loop.cache)
    now = time.time() + 8 * 86400
    monkeypatch.setattr(time, "time", lambda: now)
    loop.run("tidy")
    assert not trash_entries(loop.cache)


def test_a_flood_of_new_files_ends_with_the_right_index(
    make_loop: MakeLoop, settings: Settings
) -> None:
    """Faster than any queue drains: events are lost in silence, and the probe does not care."""
    loop = make_loop()
    loop.start()
    folder = make_repo(settings.cache_root, "Org/Name", MODEL)
    loop.run("look")
    for n in range(20_000):
        os.close(os.open(folder / "blobs" / f"{n:064x}", os.O_CREAT | os.O_WRONLY, 0o644))

    def right() -> bool:
        loop.run("look")
        (facts,) = loop.cache.folders_of("Org/Name")
        (summary,) = loop.cache.survey().summaries
        return len(facts.blobs) == summary.blobs == 20_002

    wait_for(right)
    assert loop.state.counts.errors == 0


def test_what_undo_brought_back_is_not_pruned_again(
    make_loop: MakeLoop, settings: Settings
) -> None:
    """It came back after eight seconds into the trash, without a word."""
    loop = make_loop(max_size=1000)
    folder = make_repo(settings.cache_root, "Org/Name", {"m": b"o" * 8000}, age=90 * 86400.0)
    loop.run("probe")
    assert not folder.exists()
    undo_last(loop.cache)
    for job in ("look", "probe", "prune"):
        loop._prune_after = 0.0
        loop.run(job)
    assert folder.exists()
    found = loop.status()
    assert (found["restored"], found["undo_days"]) == (1, 7.0)
    assert found["short"] > 0
