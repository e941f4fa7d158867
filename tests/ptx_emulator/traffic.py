"""What each kernel does to memory, counted while its PTX runs: `measure`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

import mdl.kernels as kernels
from mdl.kernels.ops.loss import ce_backward, ce_forward
from ptx_emulator import Driver, counting
from tests.kernels.weights import packed_weight, rows

N, K = 128, 4096
CYCLES_OF_MEMORY = 1.755e9 * 132 / 3.0e12
"""Cycles of one of an H100's 132 multiprocessors, at 1755 MHz, in the time its memory at 3.0 TB/s
needs for a byte (of the bytes that all of them move)."""

Launch = Callable[[], object]


@dataclass(frozen=True)
class Traffic:
    """Of one operation.

    Args:
        elements: that it works on (weights of a product).
        least: bytes it must move to or from the card's memory.
        sectors, fewest_sectors: pieces of 32 bytes that its global accesses touch, each access by
            itself (what the caches answer included), and the fewest for as many bytes.
        wavefronts, fewest_wavefronts: cycles of shared memory; more than the fewest are conflicts.
    """

    name: str
    elements: int
    least: float
    sectors: int
    fewest_sectors: int
    wavefronts: int
    fewest_wavefronts: int

    @property
    def share(self) -> float:
        """The time of shared memory over that of the card's memory, on an H100."""
        return self.wavefronts / (self.least * CYCLES_OF_MEMORY)


def cases() -> Iterator[tuple[str, int, float, Launch]]:
    """(name, elements, least bytes, launch)."""
    for nested in (True, False):
        weight = packed_weight(N, K, torch.bfloat16, nested=nested)
        each = 0.5 + (1 / 64 + 4 / 16384 if nested else 4 / 64)
        for m in (1, 8, 16, 32, 64):
            x = rows(m, K, torch.bfloat16)
            least = N * K * each + 2 * m * N  # x stays in the caches when N is what models have
            name = f"product, {m} row{'s' * (m > 1)}" + ("" if nested else ", plain scales")
            yield name, N * K, least, lambda x=x, weight=weight: kernels.linear_4bit(x, weight)
        if nested:
            yield (
                "dequantize",
                N * K,
                N * K * (each + 2),
                lambda weight=weight: kernels.dequantize_4bit(weight, torch.bfloat16),
            )
    dense = rows(N, K, torch.bfloat16)
    yield "quantize", N * K, N * K * 2.5625, lambda: kernels.quantize_4bit(dense, nested=False)
    yield from _layers()


def _layers() -> Iterator[tuple[str, int, float, Launch]]:
    x, gain = rows(8, K, torch.bfloat16), torch.ones(K, dtype=torch.bfloat16)
    yield "RMSNorm", x.numel(), 4 * x.numel(), lambda: kernels.rms_norm(x, gain, 1e-6)
    yield (
        "RMSNorm with residual",
        x.numel(),
        8 * x.numel(),
        lambda: kernels.add_rms_norm(x, x, gain, 1e-6),
    )
    q = torch.randn(1, 32, 16, 128).bfloat16()
    k = torch.randn(1, 8, 16, 128).bfloat16()
    angle = torch.randn(1, 16, 128).bfloat16()
    count = q.numel() + k.numel()
    yield "rotary", count, 4 * count, lambda: kernels.apply_rope(q, k, angle, angle)
    gate = rows(8, 14336, torch.bfloat16)
    yield "SwiGLU", gate.numel(), 6 * gate.numel(), lambda: kernels.swiglu(gate, gate)
    logits, labels = rows(2, 128256, torch.bfloat16), torch.tensor([1, 5])
    how, grad = kernels.LossOptions().flat(), torch.ones(2)
    _, lse = ce_forward(logits, labels, *how)
    size = logits.numel()
    yield "cross-entropy", size, 2 * size, lambda: ce_forward(logits, labels, *how)
    yield (
        "cross-entropy backward",
        size,
        4 * size,
        lambda: ce_backward(grad, logits, labels, lse, *how),
    )


def measure(driver: Driver) -> list[Traffic]:
    """Run every case on the emulated GPU."""
    found = []
    for name, elements, least, launch in cases():
        with counting(driver) as counts:
            launch()
        sectors = sum(counts.sectors.values(), np.zeros(2, np.int64))
        cycles = sum(counts.wavefronts.values(), np.zeros(2, np.int64))
        found.append(Traffic(name, elements, least, *map(int, (*sectors, *cycles))))
    return found
