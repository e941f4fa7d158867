"""Dequantize and quantize 4-bit weights: one launch on a GPU, the torch reference elsewhere."""

from typing import Any

import torch

from mdl.kernels.nf4.packed import (
    FLAT_SCHEMA,
    Nested,
    Packed4bit,
    blocks_of,
    check_format,
    check_packed,
)
from mdl.kernels.nf4.reference import (
    quantize_rest,
    reference_dequantize_4bit,
    reference_quantize_4bit,
    reference_quantize_8bit,
)
from mdl.kernels.nf4.tables import GRID, dynamic_code, grid, steps
from mdl.kernels.runtime import (
    config,
    custom_op,
    fresh,
    kernel_or_reference,
    launch_kernel,
    stored_dtype,
)

_NESTED_BLOCK = 256

__all__ = ["dequantize_4bit", "dequantize_4bit_into", "quantize_4bit"]


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
    result: torch.Tensor = _dequantize(*weight.flat(), dtype or weight.dtype)
    return result


def dequantize_4bit_into(weight: Packed4bit, out: torch.Tensor) -> torch.Tensor:
    """The same into `out`, a contiguous tensor of as many elements on the same device."""
    return kernel_or_reference(
        "dequantize_4bit", weight.packed, _dequantize_on_triton, reference_dequantize_4bit,
        weight, out,
    )  # fmt: skip


def _dequantize_on_triton(weight: Packed4bit, out: torch.Tensor) -> torch.Tensor:
    if stored_dtype(out.dtype) != out.dtype:
        wide = torch.empty(out.shape, dtype=torch.float32, device=out.device)
        return out.copy_(_dequantize_on_triton(weight, wide))
    from mdl.kernels.nf4.kernels import dequantize_4bit_kernel

    chosen, nested = config("dequantize_4bit", weight.packed), weight.nested
    groups = max(1, chosen["WEIGHTS"] // weight.blocksize)
    launch_kernel(
        dequantize_4bit_kernel,
        (blocks_of(blocks_of(weight.numel, weight.blocksize), groups),),
        chosen,
        *weight.kernel_pointers(),
        out,
        weight.numel,
        blocks_of(weight.numel, 2),
        HALF=weight.blocksize // 2,
        NESTED=nested.blocksize if nested else 0,
        GROUPS=groups,
    )
    return out


def quantize_4bit(
    tensor: torch.Tensor, *, blocksize: int = 64, quant_type: str = "nf4", nested: bool = True
) -> Packed4bit:
    """Pack `tensor` into four bits an element, with double quantization by default.

    Byte-exact with `bitsandbytes.functional.quantize_4bit` on the CPU. Reads `tensor` once. A
    tensor that is not contiguous is copied first.

    Raises:
        UsageError: an unknown format, block size or dtype.
    """
    check_format(blocksize, quant_type, tensor.dtype)
    flat = tensor.detach().contiguous().view(-1)
    packed, absmax = kernel_or_reference(
        "quantize_4bit", flat, _quantize_on_triton, reference_quantize_4bit,
        flat, blocksize, quant_type,
    )  # fmt: skip
    second = None
    if nested:
        # The mean's last bits depend on the order of the sum, so it is torch's own everywhere.
        offset = absmax.mean()
        centred = absmax - offset
        absmax, outer = kernel_or_reference(
            "quantize_8bit", centred, _quantize_8bit_on_triton, reference_quantize_8bit,
            centred, _NESTED_BLOCK,
        )  # fmt: skip
        second = Nested(outer, dynamic_code(flat.device).clone(), offset, _NESTED_BLOCK)
    shape = tuple(tensor.shape)
    return Packed4bit(packed, absmax, shape, tensor.dtype, blocksize, quant_type, second)


def _quantize_on_triton(
    flat: torch.Tensor, blocksize: int, quant_type: str
) -> tuple[torch.Tensor, torch.Tensor]:
    from mdl.kernels.nf4.kernels import quantize_4bit_kernel

    n, chosen = flat.numel(), config("quantize_4bit", flat)
    whole = n // blocksize * blocksize
    packed = torch.empty((n + 1) // 2, dtype=torch.uint8, device=flat.device)
    absmax = torch.empty(blocks_of(n, blocksize), dtype=torch.float32, device=flat.device)
    inside, nibbles = grid(quant_type, flat.device)
    groups = max(1, chosen["WEIGHTS"] // blocksize)
    if whole:
        launch_kernel(
            quantize_4bit_kernel,
            (blocks_of(whole // blocksize, groups),),
            chosen,
            flat,
            inside,
            nibbles,
            packed,
            absmax,
            whole,
            whole // 2,
            HALF=blocksize // 2,
            GROUPS=groups,
            CELLS=GRID[quant_type],
        )
    if whole < n:
        # A short last block is divided, not multiplied: one block, so the reference's few ops do.
        quantize_rest(flat[whole:], quant_type, packed[whole // 2 :], absmax[-1:])
    return packed, absmax


def _quantize_8bit_on_triton(
    values: torch.Tensor, blocksize: int
) -> tuple[torch.Tensor, torch.Tensor]:
    from mdl.kernels.nf4.kernels import quantize_8bit_kernel

    n, chosen = values.numel(), config("quantize_8bit", values)
    out = torch.empty(n, dtype=torch.uint8, device=values.device)
    blocks = blocks_of(n, blocksize)
    absmax = torch.empty(blocks, dtype=torch.float32, device=values.device)
    if n:
        table = steps(values.device)
        launch_kernel(
            quantize_8bit_kernel, (blocks,), chosen, values, table, out, absmax, n, BLOCK=blocksize
        )
    return out, absmax


def _dequantize_fake(packed: torch.Tensor, absmax: torch.Tensor, *rest: Any) -> torch.Tensor:
    shape, dtype = rest[3], rest[-1]
    return torch.empty(shape, dtype=dtype, device=packed.device)


@custom_op(
    "dequantize_4bit", _dequantize_fake, schema=f"({FLAT_SCHEMA}, ScalarType dtype) -> Tensor"
)
def _dequantize(*flat_and_dtype: Any) -> torch.Tensor:
    flat, dtype = flat_and_dtype[:-1], flat_and_dtype[-1]
    weight = Packed4bit.from_flat(flat, dtype)
    return dequantize_4bit_into(weight, fresh(weight.shape, dtype, weight.packed.device))
