"""Count what the kernels do to memory, by running their compiled PTX instruction by instruction.

python -m benchmarks.kernels_traffic [--target 90] [--write benchmarks/results/kernels_traffic.md]

No GPU is needed, and no time is measured. `shared / memory` is the time of shared memory over that
of an H100's memory at 3.0 TB/s; above 1 shared memory is what a kernel waits for.
"""

import argparse
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

from tests.ptx_emulator.launching import install
from tests.ptx_emulator.traffic import Traffic, measure


def table(found: Iterable[Traffic]) -> str:
    """One line an operation, as Markdown."""
    lines = [
        "| operation | sectors of global memory: touched / fewest | cycles of shared memory a "
        "thousand elements: taken / fewest | shared / memory |",
        "|---|---:|---:|---:|",
    ]
    for one in found:
        each = one.elements / 1000
        lines.append(
            f"| {one.name} | {one.sectors / max(1, one.fewest_sectors):.2f} "
            f"| {one.wavefronts / each:.1f} / {one.fewest_wavefronts / each:.1f} "
            f"| {one.share:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table, and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=int, default=90, choices=(80, 90, 100, 120))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    found = measure(install(options.target))
    text = (
        f"# What the kernels do to memory, on sm_{options.target}\n\n"
        f"`python -m benchmarks.kernels_traffic --target {options.target}`, counted from PTX by an "
        "emulator, not measured on a GPU; "
        f"triton {importlib.metadata.version('triton')}.\n\n{table(found)}\n"
    )
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
