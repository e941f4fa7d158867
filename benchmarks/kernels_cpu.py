"""Time the torch references that a machine without a GPU uses, beside bitsandbytes' CPU path.

python -m benchmarks.kernels_cpu [--write benchmarks/results/kernels_cpu.md]

Quantizing is what loading in 4 bits does to every weight. Best of several interleaved rounds, and
every result is compared with bitsandbytes' byte for byte first. The layer is not: in eval mode
bitsandbytes repacks its weight with scales rounded to bfloat16 where the CPU has AVX512-BF16.
"""

import argparse
import copy
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from bitsandbytes import functional

import mdl.kernels as kernels

SHAPES = ((4096, 4096), (14336, 4096))
DTYPES = (torch.bfloat16, torch.float32)


def best(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The shortest time of each contender, in seconds, called in turn."""
    found = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds + 1):
        for name, function in contenders.items():
            started = time.perf_counter()
            function()
            found[name] = min(found[name], time.perf_counter() - started)
    return found


def linear_rows(rounds: int) -> list[str]:
    """A 4-bit layer in eval mode, ours beside bitsandbytes', for one row and for many."""
    lines = []
    n, k = SHAPES[0]
    for dtype in DTYPES:
        layer = bitsandbytes.nn.Linear4bit(
            k, n, bias=False, compute_dtype=dtype, quant_type="nf4"
        ).to("cpu")
        layer.eval()
        ours = copy.deepcopy(layer)
        kernels.apply(ours)
        for m in (1, 256):
            x = torch.randn(m, k).to(dtype)
            with torch.no_grad():
                found = best(
                    {"mdl": lambda x=x, f=ours: f(x), "bitsandbytes": lambda x=x, f=layer: f(x)},
                    rounds,
                )
            mine, theirs = found["mdl"] * 1e3, found["bitsandbytes"] * 1e3
            lines.append(
                f"| layer, {m} rows | {n}x{k} | {str(dtype)[6:]} | {mine:.1f} | {theirs:.1f} "
                f"| {theirs / mine:.2f} |"
            )
    return lines


def rows(rounds: int) -> list[str]:
    """One line a shape, dtype and direction."""
    lines = []
    for n, k in SHAPES:
        for dtype in DTYPES:
            dense = torch.randn(n, k).to(dtype)
            how = {"quant_type": "nf4", "compress_statistics": True}
            packed, state = functional.quantize_4bit(dense, **how)
            ours = kernels.quantize_4bit(dense)
            assert torch.equal(ours.packed, packed.view(-1))
            assert torch.equal(ours.absmax, state.absmax)
            weight = kernels.Packed4bit.from_bitsandbytes(packed, state)
            assert torch.equal(
                kernels.dequantize_4bit(weight), functional.dequantize_4bit(packed, state)
            )
            pairs: dict[str, dict[str, Callable[[], Any]]] = {
                "quantize": {
                    "mdl": lambda t=dense: kernels.quantize_4bit(t),
                    "bitsandbytes": lambda t=dense, h=how: functional.quantize_4bit(t, **h),
                },
                "dequantize": {
                    "mdl": lambda w=weight: kernels.dequantize_4bit(w),
                    "bitsandbytes": lambda p=packed, s=state: functional.dequantize_4bit(p, s),
                },
            }
            for what, contenders in pairs.items():
                found = best(contenders, rounds)
                mine, theirs = found["mdl"] * 1e3, found["bitsandbytes"] * 1e3
                lines.append(
                    f"| {what} | {n}x{k} | {str(dtype)[6:]} | {mine:.1f} | {theirs:.1f} "
                    f"| {theirs / mine:.2f} |"
                )
    return lines


def main() -> None:
    """Print the table, and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    options, busy = parser.parse_args(), os.getloadavg()[0]
    text = "\n".join(
        [
            "# NF4 with double quantization on the CPU",
            "",
            f"`python -m benchmarks.kernels_cpu`, {os.cpu_count()} cores ({platform.machine()}), "
            f"torch {torch.__version__}, bitsandbytes {bitsandbytes.__version__}. Milliseconds, "
            f"best of {options.rounds + 1}, interleaved; the formats are equal byte for byte. "
            f"Other work on the machine: a load average of {busy:.1f} before.",
            "",
            "| direction | shape | dtype | mdl | bitsandbytes | times faster |",
            "|---|---|---|---:|---:|---:|",
            *rows(options.rounds),
            *linear_rows(options.rounds),
            "",
        ]
    )
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
