"""Start-up time of this tree beside another checkout, in pairs, so that a slowdown shows.

    python -m benchmarks.startup OTHER_CHECKOUT [--rounds 41] [--load]

Runs `import mdl` and `mdl resolve NAME --offline` as processes of this interpreter, in turn in both
trees; with `--load` also `mdl load` of SmolLM2-135M-Instruct, a third as many rounds. Prints the
medians and the median of the ratios of each pair.
"""

import argparse
import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from demo import smollm2

NAME = "meta-llama/Llama-3.1-8B-Instruct"
COMMANDS = {
    "import mdl": ["-c", "import mdl"],
    "mdl resolve NAME --offline": ["-m", "mdl", "resolve", NAME, "--offline", "--4bit"],
}


def milliseconds(tree: Path, arguments: list[str], home: str) -> float:
    """One process in `tree`, with its own MDL_HOME."""
    environment = {"PATH": os.environ["PATH"], "HOME": home, "PYTHONPATH": str(tree)}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=home, env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return (time.perf_counter() - start) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--load", action="store_true")
    given = parser.parse_args()
    commands = {what: (arguments, given.rounds) for what, arguments in COMMANDS.items()}
    if given.load:
        model = ["-m", "mdl", "load", str(smollm2.make())]
        commands["mdl load SmolLM2-135M-Instruct"] = (model, given.rounds // 3)
    trees = (Path(__file__).parents[1], given.other.resolve())
    for tree in trees:
        compileall.compile_dir(tree / "mdl", quiet=1)
    with tempfile.TemporaryDirectory() as mine, tempfile.TemporaryDirectory() as others:
        places = tuple(zip(trees, (mine, others), strict=True))
        for what, (arguments, rounds) in commands.items():
            times: tuple[list[float], list[float]] = ([], [])
            for n in range(rounds + 1):
                for side in (0, 1) if n % 2 else (1, 0):
                    took = milliseconds(places[side][0], arguments, places[side][1])
                    if n:  # the first one makes the database
                        times[side].append(took)
            ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
            here, there = map(statistics.median, times)
            print(f"{what}: {here:.1f} ms here, {there:.1f} ms there, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
