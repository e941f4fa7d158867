"""The 4-bit format and its products, beside bitsandbytes and cuBLAS."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

import mdl.kernels as kernels
from mdl.kernels.bench.case import Case, Sizes, normal
from mdl.kernels.bench.others import optional
from mdl.kernels.nf4 import reference_dequantize_4bit, reference_quantize_4bit

PACKED = 0.5 + 1 / 64 + 4 / 16384
"""Bytes of one NF4 weight with double quantization: 0.5159."""


def formats(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """Decoding and encoding, for every projection."""
    for label, n, k in sizes.projections:
        yield from _format(device, label, n, k)


def _format(device: torch.device, label: str, n: int, k: int) -> Iterator[Case]:
    bnb = optional("bitsandbytes.functional")
    dense = normal(device, n, k) / k**0.5
    weight = kernels.quantize_4bit(dense)
    packed, state = weight.to_bitsandbytes() if bnb else (None, None)
    theirs = {} if bnb is None else {"bitsandbytes": lambda: bnb.dequantize_4bit(packed, state)}
    yield Case(
        "dequantize_4bit",
        f"{label} {n}x{k}",
        "dequantize_4bit",
        {"ours": lambda: kernels.dequantize_4bit(weight), **theirs},
        lambda: reference_dequantize_4bit(weight, torch.empty_like(dense)),
        bytes=n * k * (PACKED + 2),
        goal=0.9,
        limit=0.0,
    )
    how = {"quant_type": "nf4", "compress_statistics": True}
    theirs = {} if bnb is None else {"bitsandbytes": lambda: bnb.quantize_4bit(dense, **how)}
    yield Case(
        "quantize_4bit",
        f"{label} {n}x{k}",
        "quantize_4bit",
        {"ours": lambda: kernels.quantize_4bit(dense).packed, **theirs},
        lambda: reference_quantize_4bit(dense.cpu(), 64, "nf4")[0],
        bytes=n * k * (PACKED + 2),
        goal=0.8,
        limit=0.0,
    )


def products(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """One product a projection and number of rows."""
    for label, n, k in sizes.projections:
        weight = kernels.quantize_4bit(normal(device, n, k) / k**0.5)
        for m in sizes.rows:
            yield _product(weight, normal(device, m, k), label)


def _product(weight: kernels.Packed4bit, x: torch.Tensor, label: str) -> Case:
    bnb = optional("bitsandbytes")
    (n, k), m = weight.shape, x.shape[0]
    packed, state = weight.to_bitsandbytes() if bnb else (None, None)
    decoded = kernels.dequantize_4bit(weight)
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: kernels.linear_4bit(x, weight),
        "ours, batch-invariant": lambda: kernels.linear_4bit(x, weight, batch_invariant=True),
        "dequantize + cuBLAS": lambda: x @ kernels.dequantize_4bit(weight).T,
        "cuBLAS, 16-bit weight": lambda: x @ decoded.T,
    }
    if bnb is not None:
        contenders["bitsandbytes"] = lambda: bnb.matmul_4bit(x, packed, quant_state=state)
    return Case(
        "linear_4bit",
        f"{label} {n}x{k}, {m} rows",
        "linear_4bit",
        contenders,
        lambda: x.double() @ decoded.double().T,
        bytes=n * k * PACKED + 2 * m * (n + k),
        goal=0.8 if m == 1 else 0.7 if m <= 16 else 0.55 if m <= 64 else None,
    )


def training(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """Forward and gradients of a 4-bit layer, plain and with LoRA."""
    label, n, k = sizes.projections[0]
    rank, tokens = sizes.lora_rank, sizes.tokens
    weight = kernels.quantize_4bit(normal(device, n, k) / k**0.5)
    decoded, x = kernels.dequantize_4bit(weight), normal(device, tokens, k)
    x.requires_grad_()
    up = normal(device, tokens, n)
    a, b = normal(device, rank, k).requires_grad_(), normal(device, n, rank).requires_grad_()

    def both(made: torch.Tensor, *leaves: torch.Tensor) -> Any:
        return torch.autograd.grad(made, leaves, up)

    yield Case(
        "linear_4bit, forward and gradient",
        f"{label} {n}x{k}, {tokens} tokens",
        "linear_4bit",
        {
            "ours": lambda: both(kernels.linear_4bit(x, weight), x)[0],
            "cuBLAS, 16-bit weight": lambda: both(x @ decoded.T, x)[0],
        },
        lambda: up.double() @ decoded.double(),
        flops=4 * tokens * n * k,
        goal=0.95,
    )
    lora = kernels.Lora(a, b, 0.5)
    yield Case(
        "lora_4bit, forward and gradients",
        f"{label} {n}x{k}, {tokens} tokens, rank {rank}",
        "lora_4bit",
        {
            "ours": lambda: both(kernels.lora_linear_4bit(x, weight, lora), x, a, b)[0],
            "ours, without LoRA": lambda: both(kernels.linear_4bit(x, weight), x)[0],
            "unfused": lambda: both(
                kernels.linear_4bit(x, weight) + (x @ a.T) @ b.T * 0.5, x, a, b
            )[0],
        },
        lambda: up.double() @ (decoded.double() + 0.5 * b.double() @ a.double()),
        flops=4 * tokens * n * k,
    )
