"""How long a shell waits for the completion of a repository's name, with many in the cache.

    python -m benchmarks.completion [--repos 5000] [--rounds 21]

Prints the median and the fastest process of each line, in milliseconds of time and of CPU (what a
busy machine leaves comparable), beside `python -c "import click, sqlite3"` in the same rounds.
"""

import argparse
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINES = (
    "mdl cache rm Org-3/mod",
    "mdl cache rm m",
    "mdl pull Org-3/mod",
    "mdl cache rm Org-3/Model-3@m",
)


def build(root: Path, repos: int) -> None:
    """A cache of repositories with a revision of one file each."""
    for number in range(repos):
        folder = root / f"models--Org-{number % 97}--Model-{number}"
        commit = hashlib.sha1(b"%d" % number).hexdigest()
        for name in ("blobs", "refs", f"snapshots/{commit}"):
            (folder / name).mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        blob = folder / "blobs" / hashlib.sha1(b"blob %d" % number).hexdigest()
        blob.write_text("{}")
        (folder / "snapshots" / commit / "config.json").symlink_to(f"../../blobs/{blob.name}")


def run(arguments: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Milliseconds of a process: by the clock, and of CPU."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=env, check=True, stdout=subprocess.DEVNULL)
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took * 1000, used * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repos", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=21)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "hub")
        build(root, given.repos)
        env = {"PATH": os.environ["PATH"], "HOME": folder, "MDL_HOME": f"{folder}/mdl"}
        env |= {"HF_HUB_CACHE": str(root), "PYTHONPATH": str(Path(__file__).parents[1])}
        run(["-m", "mdl", "cache", "ls", "-q"], env)
        bare = "import click, sqlite3"
        times: dict[str, list[tuple[float, float]]] = {bare: [], **{line: [] for line in LINES}}
        for _ in range(given.rounds):
            times[bare].append(run(["-c", bare], env))
            for line in LINES:
                asking = {**env, "_MDL_COMPLETE": "bash_complete", "COMP_LINE": line}
                times[line].append(run(["-m", "mdl"], asking))
    print(f"{given.repos} repositories, {given.rounds} rounds, ms: median (fastest), CPU")
    for what, found in times.items():
        clock, cpu = zip(*found, strict=True)
        print(f"{what:32} {statistics.median(clock):6.0f} ({min(clock):.0f})"
              f"  {statistics.median(cpu):6.0f} ({min(cpu):.0f})")  # fmt: skip


if __name__ == "__main__":
    main()
