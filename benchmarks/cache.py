"""How fast `mdl cache ls` and `verify` are, beside what they are measured against.

    python -m benchmarks.cache                  # 100 and 1,000 repositories
    python -m benchmarks.cache --repos 5000     # minutes, and 600,000 files
    python -m benchmarks.cache --verify         # hashing, against hashlib on all cores
    python -m benchmarks.cache --commands       # ls and the plans, at 1,000 and 5,000
    python -m benchmarks.cache --commands --against FOLDER   # beside another checkout, in pairs

Each cache has 2 revisions of 30 files a repository, sparse, and is built anew under a temporary
folder. Every figure is the median of several runs in one process order, page cache warm.
"""

import argparse
import hashlib
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FILES = 30
REVISIONS = 2


def build(root: Path, repos: int) -> None:
    """A synthetic cache: every blob its own sparse file, as a new revision of every file."""
    for number in range(repos):
        folder = root / f"models--org-{number % 97}--Model-{number}"
        blobs = folder / "blobs"
        blobs.mkdir(parents=True)
        (folder / "refs").mkdir()
        for revision in range(REVISIONS):
            commit = hashlib.sha1(b"%d/%d" % (number, revision)).hexdigest()
            snapshot = folder / "snapshots" / commit
            snapshot.mkdir(parents=True)
            for file in range(FILES):
                etag = hashlib.sha256(b"%d/%d/%d" % (number, revision, file)).hexdigest()
                with open(blobs / etag, "wb") as blob:
                    blob.truncate(1_000_000 + file)
                os.symlink(f"../../blobs/{etag}", snapshot / f"model-{file:05d}.safetensors")
            if revision == REVISIONS - 1:
                (folder / "refs" / "main").write_text(commit)


def change(root: Path, share: float) -> None:
    """Add a file to some of the repositories, as a download does."""
    folders = sorted(root.iterdir())
    for folder in folders[: max(1, int(len(folders) * share))]:
        etag = hashlib.sha256(os.urandom(8)).hexdigest()
        (folder / "blobs" / etag).write_bytes(b"new")
        snapshot = next((folder / "snapshots").iterdir())
        os.symlink(f"../../blobs/{etag}", snapshot / etag[:8])


def walk(root: Path) -> None:
    """The floor of a full read: scandir and a stat of everything."""
    waiting = [str(root)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


class Runner:
    """Runs processes in the environment of one cache and times them."""

    def __init__(self, base: Path) -> None:
        self.root = base / "hub"
        self.home = base / "mdl"
        self.env = {
            **os.environ,
            "HF_HUB_CACHE": str(self.root),
            "MDL_HOME": str(self.home),
            "HF_HUB_OFFLINE": "1",
        }
        self.bin = Path(sys.executable).parent

    def process(self, *command: str) -> float:
        start = time.perf_counter()
        subprocess.run(command, env=self.env, cwd="/", check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)  # fmt: skip
        return time.perf_counter() - start

    def mdl(self) -> float:
        return self.process(str(self.bin / "mdl"), "cache", "ls")

    def forget(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    def first(self) -> float:
        self.forget()
        return self.mdl()

    def after_change(self) -> float:
        change(self.root, 0.01)
        time.sleep(0.1)
        return self.mdl()

    def memory(self) -> float:
        """Peak resident MiB of a first listing, measured by the kernel in a child of its own."""
        self.forget()
        code = (
            "import resource, subprocess, sys;"
            "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        command = [sys.executable, "-c", code, str(self.bin / "mdl"), "cache", "ls"]
        done = subprocess.run(command, env=self.env, check=True, capture_output=True, text=True)
        return int(done.stdout) / 1024


def median(measure: Callable[[], float], runs: int) -> float:
    return statistics.median(measure() for _ in range(runs))


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(repos: int, runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="mdl-benchmark-") as folder:
        runner = Runner(Path(folder))
        build(runner.root, repos)
        from huggingface_hub import scan_cache_dir

        hub_runs = 1 if repos > 1000 else runs
        walk(runner.root)
        times = {
            "bare scandir + stat walk": median(lambda: timed(lambda: walk(runner.root)), runs),
            "python -c 'import click, sqlite3'": median(
                lambda: runner.process(sys.executable, "-c", "import click, sqlite3"), runs
            ),
            "mdl cache ls, first time": median(runner.first, runs),
            "mdl cache ls, warm": median(runner.mdl, runs + 2),
            "mdl cache ls, 1 % changed": median(runner.after_change, runs),
            "scan_cache_dir": median(lambda: timed(lambda: scan_cache_dir(runner.root)), hub_runs),
            "hf cache ls": median(
                lambda: runner.process(str(runner.bin / "hf"), "cache", "ls"), hub_runs
            ),
        }
        times["peak memory of a first mdl cache ls, MiB"] = runner.memory()
        report(repos, times)


COMMANDS = {
    "cache ls": ("cache", "ls"),
    "cache ls --json": ("cache", "ls", "--json"),
    "cache ls -q": ("cache", "ls", "-q"),
    "cache ls -f format=gguf": ("cache", "ls", "-f", "format=gguf"),
    "cache prune --dry-run": ("cache", "prune", "--dry-run"),
    "cache normalize --dry-run": ("cache", "normalize", "--dry-run"),
}


def measure_commands(repos: int, runs: int, against: Path | None) -> None:
    """The commands on a warm index; every round runs all of them, the other checkout's too."""
    checkouts = {"now": Path(__file__).parents[1], **({"before": against} if against else {})}
    with tempfile.TemporaryDirectory(prefix="mdl-benchmark-") as folder:
        runner = Runner(Path(folder))
        build(runner.root, repos)
        times: dict[str, list[float]] = {}
        for _ in range(runs + 1):  # the first round reads the disk, and is not counted
            import_ = runner.process(sys.executable, "-c", "import click, sqlite3")
            times.setdefault("import click, sqlite3", []).append(import_)
            for name, command in COMMANDS.items():
                for which, checkout in checkouts.items():
                    if which == "before" and "-f" in command:
                        continue  # it may not know that filter
                    runner.env["PYTHONPATH"] = str(checkout)
                    runner.env["MDL_HOME"] = str(runner.home / which)
                    took = runner.process(sys.executable, "-m", "mdl", *command)
                    times.setdefault(f"{name}, {which}", []).append(took)
    print(f"\n{repos} repositories x {REVISIONS} revisions x {FILES} files, {runs} rounds")
    print(f"  {'':36} {'median':>9} {'fastest':>9}")
    for name, [_, *counted] in times.items():
        print(f"  {name:36} {statistics.median(counted) * 1000:6.0f} ms"
              f" {min(counted) * 1000:6.0f} ms", flush=True)  # fmt: skip


def hash_whole(path: str) -> str:
    """What `verify` is measured against: nothing but reading and hashing, a file a process."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_content(root: Path, files: int, size: int) -> list[str]:
    """Real content under its real names; the large and the small as a model has them."""
    folder = root / "models--org--content"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    paths = []
    for number in range(files):
        data = os.urandom(1 << 20) * (size >> 20 if number % 2 else max(1, size >> 23))
        path = folder / "blobs" / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        os.symlink(f"../../blobs/{path.name}", snapshot / f"{number}.safetensors")
        paths.append(str(path))
    return paths


def measure_verify(runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="mdl-benchmark-") as folder:
        runner = Runner(Path(folder))
        paths = build_content(runner.root, files=16, size=192 << 20)
        total = sum(map(os.path.getsize, paths))
        from mdl.cachemgr import open_cache
        from mdl.cachemgr.scan.folder import scan_folder
        from mdl.cachemgr.verify.verify import Verifier
        from mdl.settings import Settings

        cache = open_cache(Settings(runner.home, runner.root))
        facts = [scan_folder(str(runner.root), "models--org--content", marked=False)]
        verifier = Verifier(str(runner.root), cache.index, again=True)
        with multiprocessing.Pool(os.cpu_count()) as pool:
            pool.map(hash_whole, paths, chunksize=1)
            # In turns, so that whatever else the machine does meets both.
            pairs = [
                (
                    timed(lambda: pool.map(hash_whole, paths, chunksize=1)),
                    timed(lambda: verifier.run(facts)),
                )
                for _ in range(runs)
            ]
    plain, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"\n{total / 1e9:.2f} GB in {len(paths)} files, {os.cpu_count()} cores")
    print(f"  {'hashlib, a process a core':42} {plain * 1000:9.0f} ms")
    print(f"  {'mdl cache verify':42} {ours * 1000:9.0f} ms")
    print(f"  {'verify / hashlib':42} {ours / plain:9.2f} x")


def report(repos: int, times: dict[str, float]) -> None:
    print(f"\n{repos} repositories x {REVISIONS} revisions x {FILES} files")
    for name, value in times.items():
        unit = f"{value:9.1f}" if name.endswith("MiB") else f"{value * 1000:9.0f} ms"
        print(f"  {name:42} {unit}")
    warm = times["mdl cache ls, warm"]
    print(f"  {'hf cache ls / warm mdl cache ls':42} {times['hf cache ls'] / warm:9.1f} x")
    base = times["python -c 'import click, sqlite3'"]
    print(f"  {'warm mdl cache ls / click + sqlite3':42} {warm / base:9.2f} x")
    first = times["mdl cache ls, first time"] / times["bare scandir + stat walk"]
    print(f"  {'first mdl cache ls / bare walk':42} {first:9.2f} x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repos", type=int, action="append", help="default: 100 and 1000")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--verify", action="store_true", help="hashing instead of listing")
    parser.add_argument("--commands", action="store_true", help="ls and the plans, warm")
    parser.add_argument("--against", type=Path, help="with --commands: another checkout's root")
    options = parser.parse_args()
    if options.commands:
        for repos in options.repos or [1000, 5000]:
            measure_commands(repos, options.runs, options.against)
        return
    if options.verify:
        measure_verify(options.runs)
        return
    for repos in options.repos or [100, 1000]:
        measure(repos, options.runs)


if __name__ == "__main__":
    main()
