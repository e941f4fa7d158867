"""What the daemon costs while nothing happens, and how soon it follows when something does.

    python -m benchmarks.daemon [--repos 1000] [--seconds 60] [--flood 60000] [--hours 24]

Makes a cache of that many repositories (2 revisions of 30 small files each) in a temporary folder,
starts `mdl daemon run` on it, and measures from outside: processor time and resident memory over
the idle seconds; the time from a new revision in a repository that slept, and in one that was just
written to, to its row in the index; the index after a flood of files. Then, in this process, the
daemon's loop through simulated hours of idle on a scripted clock: traced memory and index before
and after.
"""

import argparse
import gc
import hashlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from mdl.cachemgr.cache import open_cache
from mdl.cachemgr.daemon.loop import DaemonLoop, due_jobs
from mdl.cachemgr.daemon.process import Place
from mdl.cachemgr.daemon.status_socket import ask_daemon
from mdl.cachemgr.daemon.usage import UseJournal
from mdl.cachemgr.layout import root_id
from mdl.settings import Settings

FILES, REVISIONS = 30, 2


def add_revision(folder: Path, number: int, files: int = FILES) -> None:
    """One more revision, as a finished download leaves it: blobs, pointers, then the ref.

    Casings of one name have the same files.
    """
    seed = folder.name.lower()
    commit = hashlib.sha1(f"{seed}{number}".encode()).hexdigest()
    snapshot = folder / "snapshots" / commit
    for sub in (folder / "blobs", folder / "refs", snapshot):
        sub.mkdir(parents=True, exist_ok=True)
    for n in range(files):
        name = hashlib.sha256(f"{seed}{number}{n}".encode()).hexdigest()
        (folder / "blobs" / name).write_bytes(b"x" * 16)
        (snapshot / f"file-{n}.json").symlink_to(f"../../blobs/{name}")
    (folder / "refs" / "main").write_text(commit)


def build(root: Path, repos: int) -> None:
    start = time.perf_counter()
    for n in range(repos):
        for number in range(REVISIONS):
            add_revision(root / f"models--Org{n % 50}--Model-{n}", number)
    print(f"cache: {repos:,} repositories, {repos * FILES * REVISIONS:,} files"
          f" ({time.perf_counter() - start:.0f} s to make)")  # fmt: skip


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def until(condition: Callable[[], bool], seconds: float = 120.0) -> float:
    """Seconds until it is true."""
    start = time.perf_counter()
    while not condition():
        if time.perf_counter() - start > seconds:
            raise SystemExit("it never came true")
        time.sleep(0.02)
    return time.perf_counter() - start


def blobs_in_index(settings: Settings, name: str) -> int:
    """How many blobs the index itself holds for a folder; nothing reads the disk here."""
    path = settings.home / "cache" / f"{root_id(settings.cache_root)}.db"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as index:
        row = index.execute("SELECT facts FROM folder WHERE name = ?", (name.encode(),)).fetchone()
    return int(json.loads(row[0])[3]) if row else 0


def compare_asking(settings: Settings, socket: Path) -> None:
    """A listing read from the index here, and asked of the daemon; medians of eleven, by turns.

    Reading the answer's JSON is shown alone: no daemon, however warm, can spare that.
    """

    def direct() -> object:
        cache = open_cache(settings)
        try:
            return cache.listing()
        finally:
            cache.index.close()

    text = json.dumps(ask_daemon(socket, "/v1/cache"))
    ways: dict[str, Callable[[], object]] = {
        "read from the index": direct,
        "asked of the daemon": lambda: ask_daemon(socket, "/v1/cache", timeout=20),
        "reading such an answer's JSON": lambda: json.loads(text),
    }
    took: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(11):
        for way, call in ways.items():
            start = time.perf_counter()
            call()
            took[way].append(time.perf_counter() - start)
    shown = (f"{way} {statistics.median(times) * 1000:.1f} ms" for way, times in took.items())
    print(f"the whole listing: {', '.join(shown)}")


def measure(settings: Settings, repos: int, seconds: float, flood: int) -> None:
    env = {**os.environ, "HF_HUB_CACHE": str(settings.cache_root), "MDL_HOME": str(settings.home)}
    process = subprocess.Popen([sys.executable, "-m", "mdl", "daemon", "run"], env=env,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        socket = Place(settings).socket
        until(socket.exists)
        until(lambda: ask_daemon(socket, "/v1/status")["repos"] == repos)
        time.sleep(10)  # past the first looks, which read everything
        spent = processor_seconds(process.pid)
        time.sleep(seconds)
        spent = (processor_seconds(process.pid) - spent) / seconds
        print(f"idle for {seconds:.0f} s: {spent:.2%} of a core (ceiling 1%),"
              f" {resident(process.pid):.1f} MiB resident (ceiling 60 MB)")  # fmt: skip
        compare_asking(settings, socket)
        folder = settings.cache_root / "models--Org0--Model-0"
        for what in ("slept", "was just written to"):
            add_revision(folder, int(time.time() * 1000))
            there = len(list((folder / "blobs").iterdir()))
            took = until(lambda: blobs_in_index(settings, folder.name) == there)  # noqa: B023
            print(f"a new revision in a repository that {what}: in the index after {took:.2f} s"
                  " (ceiling 2)")  # fmt: skip
        start = time.perf_counter()
        for n in range(flood):
            os.close(os.open(folder / "blobs" / f"{n:064x}", os.O_CREAT | os.O_WRONLY, 0o644))
        made = time.perf_counter() - start
        there = len(list((folder / "blobs").iterdir()))
        took = until(lambda: blobs_in_index(settings, folder.name) == there)
        print(f"{flood:,} files made in {made:.1f} s: the index had all of them {took:.1f} s later;"
              f" {resident(process.pid):.1f} MiB resident")  # fmt: skip
    finally:
        start = time.perf_counter()
        process.terminate()
        code = process.wait(20)
        print(f"SIGTERM: ended with {code} after {time.perf_counter() - start:.2f} s (ceiling 2)")


def simulate(settings: Settings, hours: float) -> None:
    loop = DaemonLoop(settings, lambda: settings)
    loop._uses = UseJournal(loop.root, lambda _: {})
    loop.run("probe")
    now = 0.0

    def wait(seconds: float) -> str:
        nonlocal now
        now += max(seconds, 0.001)
        return "stop" if now > end else ""

    def run() -> int:
        count = 0
        for job in due_jobs(lambda: now, wait, {}):
            loop.run(job)
            count += 1
        return count

    end = 600.0
    run()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    size = loop.cache.index.path.stat().st_size
    end = now + hours * 3600
    start = time.perf_counter()
    count = run()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    print(f"{hours:g} simulated hours ({count:,} jobs, {time.perf_counter() - start:.0f} s real):"
          f" {grown / 1024:+.1f} KiB of traced memory,"
          f" {loop.cache.index.path.stat().st_size - size:+d} bytes of index,"
          f" {loop.state.counts.errors} errors")  # fmt: skip
    loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repos", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--flood", type=int, default=60_000)
    parser.add_argument("--hours", type=float, default=24.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "mdl", cache_root=Path(folder) / "hf" / "hub")
        settings.cache_root.mkdir(parents=True)
        build(settings.cache_root, options.repos)
        measure(settings, options.repos, options.seconds, options.flood)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "mdl", cache_root=Path(folder) / "hf" / "hub")
        settings.cache_root.mkdir(parents=True)
        build(settings.cache_root, 2)
        simulate(settings, options.hours)


if __name__ == "__main__":
    main()
