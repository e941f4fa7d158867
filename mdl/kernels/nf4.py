"""Dequantize and quantize 4-bit weights: one launch on a GPU, the torch twin elsewhere."""

from collections.abc import Sequence
from typing import Any

import torch

from mdl.kernels import nf4_twin
from mdl.kernels.launch import config, custom_op, launch, on_triton, stored_dtype
from mdl.kernels.nf4_layout import Nested, Packed4bit, blocks_of, check_packed, code, numel

__all__ = ["dequantize_4bit", "dequantize_4bit_into"]


def dequantize_4bit(weight: Packed4bit, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The weight as numbers: a contiguous tensor of `weight.shape`.

    Bitwise equal to `bitsandbytes.functional.dequantize_4bit`. Reads 0.5159 bytes a weight with
    double quantization (block 64) and writes the dtype's size.

    Args:
        dtype: float32, float16 or bfloat16; default the weight's own.

    Raises:
        UsageError: the parts of `weight` do not fit each other.
    """
    check_packed(weight)
    nested = weight.nested
    result: torch.Tensor = _dequantize(
        weight.packed,
        weight.absmax,
        nested.code if nested else None,
        nested.absmax if nested else None,
        nested.offset if nested else None,
        list(weight.shape),
        weight.blocksize,
        nested.blocksize if nested else 0,
        weight.quant_type,
        dtype or weight.dtype,
    )
    return result


def dequantize_4bit_into(weight: Packed4bit, out: torch.Tensor) -> torch.Tensor:
    """The same into `out`, a contiguous tensor of as many elements on the same device."""
    if weight.numel == 0:
        return out
    if not on_triton(weight.packed):
        return nf4_twin.dequantize_4bit(weight, out)
    if stored_dtype(out.dtype) != out.dtype:
        wide = torch.empty(out.shape, dtype=torch.float32, device=out.device)
        return out.copy_(dequantize_4bit_into(weight, wide))
    from mdl.kernels.nf4_kernels import dequantize_4bit_kernel

    chosen, nested = config("dequantize_4bit", weight.packed), weight.nested
    groups = max(1, chosen["WEIGHTS"] // weight.blocksize)
    launch(
        dequantize_4bit_kernel,
        (blocks_of(blocks_of(weight.numel, weight.blocksize), groups),),
        chosen,
        weight.packed,
        weight.absmax,
        nested.code if nested else weight.absmax,
        nested.absmax if nested else weight.absmax,
        nested.offset if nested else weight.absmax,
        code(weight.quant_type, weight.packed.device),
        out,
        weight.numel,
        HALF=weight.blocksize // 2,
        NESTED=nested.blocksize if nested else 0,
        GROUPS=groups,
    )
    return out


def packed_of(
    packed: torch.Tensor,
    absmax: torch.Tensor,
    nested: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, int],
    shape: Sequence[int],
    form: tuple[int, str, torch.dtype],
) -> Packed4bit:
    """A `Packed4bit` from the flat arguments a custom operator can take."""
    nested_code, nested_absmax, offset, size = nested
    inner = None
    if nested_code is not None and nested_absmax is not None and offset is not None:
        inner = Nested(nested_absmax, nested_code, offset, size)
    blocksize, quant_type, dtype = form
    return Packed4bit(packed, absmax, tuple(shape), dtype, blocksize, quant_type, inner)


def _dequantize_fake(packed: torch.Tensor, absmax: torch.Tensor, *rest: Any) -> torch.Tensor:
    shape, dtype = rest[3], rest[-1]
    return torch.empty(shape, dtype=dtype, device=packed.device)


@custom_op("dequantize_4bit", _dequantize_fake)
def _dequantize(
    packed: torch.Tensor,
    absmax: torch.Tensor,
    nested_code: torch.Tensor | None,
    nested_absmax: torch.Tensor | None,
    offset: torch.Tensor | None,
    shape: Sequence[int],
    blocksize: int,
    nested_blocksize: int,
    quant_type: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    weight = packed_of(
        packed,
        absmax,
        (nested_code, nested_absmax, offset, nested_blocksize),
        shape,
        (blocksize, quant_type, dtype),
    )
    out = torch.empty(list(shape), dtype=dtype, device=packed.device)
    return dequantize_4bit_into(weight, out) if numel(shape) else out
