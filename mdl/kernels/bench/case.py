"""What one measurement is: an operation, its sizes, who is timed, and what is right."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Sizes:
    """The shapes of one run. projections: (label, N, K)."""

    projections: tuple[tuple[str, int, int], ...]
    rows: tuple[int, ...]
    tokens: int
    hidden: tuple[int, ...]
    intermediate: int
    vocabulary: int
    heads: tuple[int, int, int]
    lora_rank: int = 16


REAL = Sizes(
    projections=(
        ("Llama-3.1-8B q, o", 4096, 4096),
        ("Llama-3.1-8B k, v", 1024, 4096),
        ("Llama-3.1-8B gate, up", 14336, 4096),
        ("Llama-3.1-8B down", 4096, 14336),
        ("Llama-3.1-70B q, o", 8192, 8192),
        ("Llama-3.1-70B gate, up", 28672, 8192),
        ("Llama-3.1-70B down", 8192, 28672),
        ("Qwen2-7B q, o", 3584, 3584),
        ("Qwen2-7B k, v", 512, 3584),
        ("Qwen2-7B gate, up", 18944, 3584),
        ("Qwen2-7B down", 3584, 18944),
        ("K not a multiple of 64", 4096, 4000),
    ),
    rows=(1, 2, 4, 8, 16, 32, 64, 128),
    tokens=4096,
    hidden=(4096, 8192),
    intermediate=14336,
    vocabulary=128256,
    heads=(32, 8, 128),
)
TINY = Sizes((("tiny", 96, 128), ("tiny odd", 32, 72)), (1, 3), 8, (64,), 96, 200, (4, 2, 16))


@dataclass(frozen=True)
class Case:
    """One operation on one shape.

    contenders: callables by name; 'ours' among them. bytes: what must be moved at least.
    flops: floating-point operations, 0 where memory is the limit. exact: the reference result.
    goal: the share of a copy (or of the matrix product) that is aimed at. of: an operation in
    `mdl.kernels.self_check` that must be right first.
    """

    operation: str
    shape: str
    of: str
    contenders: dict[str, Callable[[], Any]]
    exact: Callable[[], torch.Tensor]
    bytes: float = 0.0
    flops: float = 0.0
    goal: float | None = None
    limit: float = 3e-2


def normal(device: torch.device, *shape: int) -> torch.Tensor:
    """Random bfloat16 numbers of a standard normal distribution."""
    return torch.randn(*shape, device=device, dtype=torch.bfloat16)
