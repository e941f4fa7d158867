"""How long an answer takes, in a process and as one.

    python -m benchmarks.resolve [--rows 1000000] [--wheel PATH_OF_UNPACKED_UNSLOTH_WHEEL]

In one run, interleaved: a warm offline `resolve()` with a thousand and with a million mirror
rows, for a format that is made on load and for GGUF with its variants, a plain dict look-up, and
(with --wheel) Unsloth's `get_model_name`; then `mdl resolve NAME --offline` as a process beside
`python -c "import click, sqlite3"`. Medians, and their ratios.
"""

import argparse
import compileall
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mdl
from benchmarks.parity import their_functions
from mdl.resolver import ResolveOptions, Resolver
from mdl.settings import Settings
from mdl.store import CatalogSource, MirrorRow, VariantRow, VariantTable

NAME = "meta-llama/Llama-3.1-8B-Instruct"
FORMATS = ("gguf", "bnb-4bit")


def filled(home: Path, rows: int) -> Resolver:
    """A resolver over a catalogue of `rows` mirrors: the packaged ones and made-up ones."""
    resolver = Resolver(Settings(home, home / "hub", offline=True))
    mirrors = (
        MirrorRow(f"Org{n % 997}/Model-{n}", format, f"x/Model-{n}-{format}", format,
                  "plain" if n % 2 else "", 0, "declared", "made")
        for n in range(rows) for format in (FORMATS[n % 2],)
    )  # fmt: skip
    resolver.catalog.import_rows(CatalogSource("made", "1", "made up", "", ""), mirrors)
    return resolver


def picked(resolver: Resolver, rows: int, format: str) -> list[str]:
    """Names with a mirror in a format, in lower case; what their GGUF mirrors hold is known."""
    generator = random.Random(0)
    found = []
    for _ in range(400):
        n = generator.randrange(rows // 2) * 2 + FORMATS.index(format)
        found.append(f"org{n % 997}/model-{n}")
        if format == "gguf":
            variants = [
                VariantRow(format, name, name, 4.9, 5 << 30,
                           json.dumps([[f"Model-{n}-{name}.gguf", 5 << 30]]), "", "", "c" * 40, 0.0)
                for name in ("Q4_K_M", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_S", "Q3_K_M", "Q2_K", "F16")
            ]  # fmt: skip
            VariantTable(resolver.catalog.database).remember(f"x/model-{n}-gguf", variants)
    return found


def microseconds(call: Callable[[str], object], names: list[str]) -> float:
    """Median over single calls."""
    times = []
    for name in names:
        start = time.perf_counter_ns()
        call(name)
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1000


def in_process(rows: int, wheel: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        resolvers = {n: filled(Path(folder) / str(n), n) for n in (1000, rows)}
        picks = {
            (n, format): picked(resolver, n, format)
            for n, resolver in resolvers.items()
            for format in FORMATS
        }
        table = {f"org{n % 997}/model-{n}": f"x/Model-{n}" for n in range(1000)}
        rounds: dict[str, list[float]] = {}
        theirs = their_functions(wheel)[0] if wheel else None
        # Many short rounds: the machine changes its speed, and a round must not see it.
        for _ in range(25):
            for (n, format), names in picks.items():
                ask = partial(resolvers[n].resolve, options=ResolveOptions(format))
                took = microseconds(ask, names)
                rounds.setdefault(f"{format}, {n:,} rows", []).append(took)
            looked_up = microseconds(table.get, picks[1000, "bnb-4bit"])
            rounds.setdefault("dict look-up", []).append(looked_up)
            if theirs is not None:
                rounds.setdefault("Unsloth get_model_name", []).append(
                    microseconds(theirs, [NAME] * 400)
                )
        for label, values in rounds.items():
            print(f"{label:<28}{statistics.median(values):9.2f} µs")
        small, large = (rounds[f"bnb-4bit, {n:,} rows"] for n in resolvers)
        ratio = statistics.median(b / a for a, b in zip(small, large, strict=True))
        print(f"{'large / small (of rounds)':<28}{ratio:9.2f}")
        for resolver in resolvers.values():
            resolver.close()


def as_process(runs: int) -> None:
    # As pip installs it: compiled.
    compileall.compile_dir(Path(mdl.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory() as home:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MDL_"))}
        env |= {"MDL_HOME": home, "HF_HOME": home}
        commands = {
            "mdl resolve --offline": [
                sys.executable, "-c", "from mdl.__main__ import main; main()",  # as pip's script
                "resolve", NAME, "--4bit", "--offline",
            ],
            "import click, sqlite3": [sys.executable, "-c", "import click, sqlite3"],
        }  # fmt: skip
        times: dict[str, list[float]] = {label: [] for label in commands}
        for turn in range(runs + 1):
            for label, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, env=env, check=True, capture_output=True)
                if turn:  # the first one makes the database
                    times[label].append((time.perf_counter() - start) * 1000)
        for label, values in times.items():
            print(f"{label:<28}{statistics.median(values):9.1f} ms")
        pairs = [a / b for a, b in zip(*times.values(), strict=True)]
        print(f"{'ratio (median of pairs)':<28}{statistics.median(pairs):9.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--wheel", type=Path)
    arguments = parser.parse_args()
    os.environ["UNSLOTH_HAS_FBGEMM"] = "0"
    in_process(arguments.rows, arguments.wheel)
    as_process(arguments.runs)
