"""Compile every kernel and configuration for sm_80, 90, 100 and 120 and print what each takes.

python -m benchmarks.kernels_aot [--candidates] [--write benchmarks/results/kernels_aot.md]

No GPU is needed. `per element` is the number of SASS instructions a thread issues for each 4-bit
weight it decodes, or logit it reads, counted in the loop where there is one.
"""

import argparse
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

from mdl.kernels.compiled.compile import CAPABILITIES, Resources
from mdl.kernels.compiled.variants import compile_all


def table(found: Iterable[Resources]) -> str:
    """One line a kernel and target, as Markdown."""
    lines = [
        "| kernel | target | registers | spilled bytes | shared bytes | instructions an element |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for one in sorted(found, key=lambda row: (row.variant, row.capability)):
        each = f"{one.per_element:.2f}" if one.per_element else ""
        lines.append(
            f"| {one.variant} | sm_{one.capability} | {one.registers} | {one.stack + one.local} "
            f"| {one.shared} | {each} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table, and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", action="store_true", help="the tuner's too")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    found = compile_all(CAPABILITIES, candidates=options.candidates)
    problems = [
        f"{one.variant} sm_{one.capability}: {one.problems}" for one in found if one.problems
    ]
    text = (
        "# Resources of every kernel, compiled ahead of time\n\n"
        f"`python -m benchmarks.kernels_aot`, triton {importlib.metadata.version('triton')}, "
        f"{len(found)} compiled kernels, {len(problems)} over a limit.\n\n{table(found)}\n"
    )
    print(text)
    for line in problems:
        print(f"over a limit: {line}")
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
