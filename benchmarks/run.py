"""What `mdl run` costs a command, and whether it misses anything.

    python -m benchmarks.run [--gigabytes 2.4] [--pairs 15] [--moments 1000]

Each command runs in pairs, without `mdl run` and with it, the order alternating; printed are the
median of both and of the differences:
- `begins`, `is over`: `date`, for what is added before a command's own work and after it;
- `large`: a model of several shards read to the last byte through safetensors;
- `small`: 20,000 small files of a cache opened in Python, without and with its audit hook.
Then 1,000 processes that open one file for about a millisecond each: how many were named.
"""

import argparse
import compileall
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import mdl

COMMIT = "1" * 40
_LARGE = """
import sys, pathlib
from safetensors import safe_open
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    with safe_open(path, "np") as file:
        for name in file.keys(): file.get_tensor(name).sum()
"""
_SMALL = """
import os, sys
for where, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(f"{where}/{name}", "rb") as file: file.read()
"""
_MOMENT = """
#include <fcntl.h>
#include <unistd.h>
int main(int count, char **words) {
    int file = open(words[1], O_RDONLY);
    usleep(1000);
    return close(file);
}
"""


def add(root: Path, repo_id: str, files: dict[str, bytes]) -> Path:
    """A repository of a cache; the folder of its snapshot."""
    folder = root / f"models--{repo_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    (folder / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, (name, data) in enumerate(files.items()):
        blob = folder / "blobs" / f"{number:064x}"
        blob.write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def shard(size: int) -> bytes:
    pages = max(1, round(size / (64 << 20)))
    header = json.dumps({
        f"w{n}": {"dtype": "U8", "shape": [64 << 20], "data_offsets": [n << 26, (n + 1) << 26]}
        for n in range(pages)
    }).encode()  # fmt: skip
    return struct.pack("<Q", len(header)) + header + bytes(pages << 26)


class Machine:
    """A cache in a folder, and commands with and without `mdl run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "hf" / "hub"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MDL_"))}
        self.env = kept | {"HF_HOME": str(folder / "hf"), "MDL_HOME": str(folder / "mdl")}

    def seconds(self, words: Sequence[str]) -> float:
        start = time.perf_counter()
        subprocess.run(words, env=self.env, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)  # fmt: skip
        return time.perf_counter() - start

    def watched(self, words: Sequence[str], report: Path | None = None) -> list[str]:
        wanted = [] if report is None else [f"--report={report}"]
        return [str(Path(sys.executable).with_name("mdl")), "run", *wanted, "--", *words]

    def starts(self, pairs: int) -> None:
        """Print how much later a command's own work begins, and how much later it is over."""
        date = ["date", "+%s.%N"]
        times: dict[str, list[float]] = {}
        for _ in range(pairs):
            for label, words in (("plain", date), ("watched", self.watched(date))):
                start = time.time()
                done = subprocess.run(words, env=self.env, check=True, capture_output=True)
                times.setdefault(label, []).append(float(done.stdout) - start)
                times.setdefault(f"{label}, whole", []).append(time.time() - start)
        median = {label: statistics.median(each) * 1000 for label, each in times.items()}
        for label, suffix in (("begins", ""), ("is over", ", whole")):
            plain, watched = median[f"plain{suffix}"], median[f"watched{suffix}"]
            print(f"{label:<24}{plain:10.1f} ms {watched:10.1f} ms{watched - plain:+9.1f} ms")

    def compare(self, label: str, words: Sequence[str], pairs: int) -> None:
        """Print medians of a command's seconds without and with, and of the differences."""
        self.seconds(words)
        self.seconds(self.watched(words))
        plain, watched = [], []
        for number in range(pairs):
            turns = [(plain, words), (watched, self.watched(words))]
            for times, command in turns if number % 2 else reversed(turns):
                times.append(self.seconds(command))
        more = statistics.median(b - a for a, b in zip(plain, watched, strict=True))
        without = statistics.median(plain)
        print(
            f"{label:<24}{without * 1000:10.1f} ms {statistics.median(watched) * 1000:10.1f} ms"
            f"{more * 1000:+9.1f} ms {more / without:+8.1%}"
        )


def moments(machine: Machine, count: int) -> None:
    source, program = machine.folder / "moment.c", machine.folder / "moment"
    source.write_text(_MOMENT)
    subprocess.run(["cc", "-O1", "-o", program, source], check=True)
    names = [f"org/model-{number:04}" for number in range(count)]
    paths = [
        add(machine.root, name, {"model.safetensors": b"x" * 100}) / "model.safetensors"
        for name in names
    ]
    script = machine.folder / "moments.sh"
    script.write_text("".join(f"{program} {path}\n" for path in paths))
    report = machine.folder / "report.json"
    machine.seconds(machine.watched(["sh", str(script)], report))
    seen = {load["repo_id"] for load in json.loads(report.read_text())["loads"]}
    print(f"{'opened for a moment':<24}{len(seen & {*names}):,} of {count:,} named")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.4)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--moments", type=int, default=1000)
    options = parser.parse_args()
    compileall.compile_dir(Path(mdl.__file__).parent, quiet=1)  # as pip installs it
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(Path(name))
        shards = max(1, round(options.gigabytes / 0.6))
        size = int(options.gigabytes * 1e9) // shards
        large = add(machine.root, "org/large",
                    {f"model-{n}.safetensors": shard(size) for n in range(shards)})  # fmt: skip
        small = add(machine.root, "org/small",
                    {f"{n}.json": b'{"n": %d}' % n for n in range(20_000)})  # fmt: skip
        print(f"{'':<24}{'without':>13}{'mdl run':>14}{'more':>12}")
        machine.starts(options.pairs * 2)
        python = [sys.executable, "-c"]
        machine.compare("large", [*python, _LARGE, str(large)], options.pairs)
        machine.compare("small", [*python, _SMALL, str(small)], options.pairs)
        hub = [*python, "import huggingface_hub" + _SMALL, str(small)]
        machine.compare("small, with the hook", hub, options.pairs)
        moments(machine, options.moments)


if __name__ == "__main__":
    main()
