"""The 4-bit linear layer: `x @ W.T + bias` with W packed, forward and with the gradient of x.

By rows of x, on a GPU: one row takes the GEMV kernel, a few the small-batch GEMM kernel, more
dequantize into a reused buffer and go to cuBLAS. Neither direction keeps the dequantized weight.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from mdl.errors import UsageError
from mdl.kernels.nf4 import FLAT_SCHEMA, Packed4bit, blocks_of, check_packed, dequantize_4bit_into
from mdl.kernels.runtime import (
    TABLE,
    Config,
    config,
    custom_op,
    interpreting,
    kernel_or_reference,
    launch_kernel,
    on_triton,
    scratch,
    stored_dtype,
)

__all__ = ["linear_4bit"]

_LARGEST_PIECE = 128
"""Elements of a row that a program decodes with one scale; a larger block is several pieces."""

_SMALL = 8
"""Bytes of a row with one scale, below which a program holds many scales for its weights."""

HEIGHTS = (8, 16, 32, 64)
"""Rows of x that one program of the GEMM kernel can take."""

_KINDS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def linear_4bit(
    x: torch.Tensor,
    weight: Packed4bit,
    bias: torch.Tensor | None = None,
    *,
    batch_invariant: bool = False,
) -> torch.Tensor:
    """`x @ weight.T + bias`, differentiable in `x` and `bias`; the packed weight is frozen.

    x: [..., K]; weight of shape (N, K); bias: [N]; result: [..., N] in x's dtype.

    Args:
        batch_invariant: one kernel for any number of rows, so a row's result does not depend on
            the rows beside it. Slower for one row and for many.

    Raises:
        UsageError: the shapes do not fit, or a part of `weight` is missing.
    """
    check_packed(weight)
    if len(weight.shape) != 2 or x.shape[-1] != weight.shape[1]:
        raise UsageError(
            f"A 4-bit weight of shape {list(weight.shape)} cannot multiply {list(x.shape)}.",
            why="The last dimension of x must be K of a weight of shape [N, K].",
            next="A weight packed as [K, N] has to be quantized again as [N, K].",
        )
    result: torch.Tensor
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        apply: Any = Linear4bitFunction.apply
        result = apply(x, bias, batch_invariant, *weight.flat())
    elif torch.compiler.is_compiling():
        result = forward_4bit(x, bias, batch_invariant, *weight.flat())
    else:
        result = _product(x, weight, bias, batch_invariant)
    return result


class Linear4bitFunction(torch.autograd.Function):
    """Saves the packed weight's parts (no copies) and dequantizes again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        batch_invariant: bool,
        *flat: Any,
    ) -> torch.Tensor:
        ctx.save_for_backward(*flat[:5])
        ctx.form = flat[5:]
        ctx.bias_dtype = None if bias is None else bias.dtype
        result: torch.Tensor = forward_4bit(x, bias, batch_invariant, *flat)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = input_grad_4bit(grad, *ctx.saved_tensors, *ctx.form)
        if ctx.needs_input_grad[1]:
            grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0, dtype=ctx.bias_dtype)
        return (grad_x, grad_bias, *(None,) * 10)


def _forward_fake(
    x: torch.Tensor, bias: torch.Tensor | None, batch_invariant: bool, *flat: Any
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], flat[5][0]))


@custom_op(
    "linear_4bit",
    _forward_fake,
    schema=f"(Tensor x, Tensor? bias, bool batch_invariant, {FLAT_SCHEMA}) -> Tensor",
)
def forward_4bit(
    x: torch.Tensor, bias: torch.Tensor | None, batch_invariant: bool, *flat: Any
) -> torch.Tensor:
    """`x @ W.T + bias` without a gradient."""
    return _product(x, Packed4bit.from_flat(flat, x.dtype), bias, batch_invariant)


def _input_grad_fake(grad: torch.Tensor, *flat: Any) -> torch.Tensor:
    return grad.new_empty((*grad.shape[:-1], flat[5][1]))


@custom_op(
    "linear_4bit_input_grad", _input_grad_fake, schema=f"(Tensor grad, {FLAT_SCHEMA}) -> Tensor"
)
def input_grad_4bit(grad: torch.Tensor, *flat: Any) -> torch.Tensor:
    """`grad @ W`: [..., N] to [..., K], through a reused buffer for W."""
    return torch.matmul(grad, _dense(Packed4bit.from_flat(flat, grad.dtype), grad.dtype))


def _add_fake(out: torch.Tensor, left: torch.Tensor, transposed: bool, *flat: Any) -> None:
    return None


@custom_op(
    "linear_4bit_add",
    _add_fake,
    mutates=("out",),
    schema=f"(Tensor(a!) out, Tensor left, bool transposed, {FLAT_SCHEMA}) -> ()",
)
def add_product_4bit(out: torch.Tensor, left: torch.Tensor, transposed: bool, *flat: Any) -> None:
    """Add `left @ W.T` (transposed) or `left @ W` to `out`, two-dimensional, in the product's own
    accumulation, through the reused buffer for W."""
    dense = _dense(Packed4bit.from_flat(flat, left.dtype), left.dtype)
    out.addmm_(left, dense.T if transposed else dense)


def _dense(weight: Packed4bit, dtype: torch.dtype) -> torch.Tensor:
    """W in `dtype`, in a buffer the next call overwrites."""
    return dequantize_4bit_into(weight, scratch.take(weight.shape, dtype, weight.packed.device))


def choose(
    rows: int, shape: Sequence[int], dtype: torch.dtype, limit: int, batch_invariant: bool
) -> str:
    """Which way a product goes on a GPU: 'gemv', 'gemm' or 'dense'.

    Args:
        rows, dtype: of x. shape: (N, K) of the weight.
        limit: rows up to which the GEMM kernel beats dequantize and cuBLAS.
    """
    if rows == 0 or 0 in shape or shape[1] % 2:
        return "dense"  # with an odd K, every other row begins in the middle of a byte
    if dtype == torch.float32:
        return "gemv" if rows == 1 and not batch_invariant else "dense"
    if batch_invariant:
        return "gemm"
    if rows == 1:
        return "gemv"
    return "gemm" if rows <= limit else "dense"


def _product(
    x: torch.Tensor, weight: Packed4bit, bias: torch.Tensor | None, batch_invariant: bool
) -> torch.Tensor:
    n, k = weight.shape
    flat = x.reshape(-1, k)
    way = "dense"
    if on_triton(x):
        limit = config("gemm_4bit_64", x)["ROWS"]
        way = choose(flat.shape[0], weight.shape, x.dtype, limit, batch_invariant)
    given = (flat, weight, bias, batch_invariant)
    if way == "dense":
        return _dense_product(*given).view(*x.shape[:-1], n)
    launch = _gemv if way == "gemv" else _gemm
    rows = kernel_or_reference(f"{way}_4bit", flat, launch, _dense_product, *given)
    return rows.view(*x.shape[:-1], n)


def _dense_product(
    x: torch.Tensor, weight: Packed4bit, bias: torch.Tensor | None, batch_invariant: bool
) -> torch.Tensor:
    cast = bias.to(x.dtype) if bias is not None else None
    return functional.linear(x, _dense(weight, x.dtype), cast)


def pairs_of(x: torch.Tensor) -> torch.Tensor:
    """Neighbouring elements as one integer of twice the width: [..., K] to [..., K / 2].

    Copies a tensor that is not contiguous or whose first element is at an odd place.
    """
    x = x.contiguous()
    if x.data_ptr() % (2 * x.element_size()):
        x = x.clone()
    return x.view(torch.int64 if x.dtype == torch.float32 else torch.int32)


def rows_of(n: int, chosen: Config, least: int = 1) -> int:
    """Rows of W a program takes: halved from the wanted while that leaves too few programs."""
    rows = chosen["BN"]
    while rows > least and n // rows < chosen["PROGRAMS"]:
        rows //= 2
    return rows


class Plan(NamedTuple):
    """How a product of one shape is launched: it follows from the table and the weight's form."""

    config: Config
    programs: int
    constants: dict[str, Any]


@functools.cache
def gemv_plan(chosen: Config, kind: str, n: int, k: int, blocksize: int, nested: int) -> Plan:
    """Of a GEMV with a [n, k] weight; `nested` is the second block size, or 0."""
    rows = rows_of(n, chosen)
    loop = loop_of(k, blocksize, nested, chosen["WEIGHTS"])
    constants = {"KIND": kind, "BN": rows, "STAGES": chosen.num_stages, **loop}
    return Plan(chosen, blocks_of(n, rows), constants)


@functools.cache
def gemm_plan(chosen: Config, height: int, n: int, k: int, blocksize: int, nested: int) -> Plan:
    """Of a GEMM with a [n, k] weight and `height` rows of x a program."""
    rows, split = gemm_tile(n, piece_of(k, blocksize), chosen)
    warps = split if split > 1 else rows // 16
    constants = {
        "BN": rows,
        "BM": height,
        "SPLIT": split,
        # What Hopper and Blackwell have of their own takes four warps and no slices of k.
        "CORE": chosen.meta.get("CORE", 8) if warps % 4 == 0 else 8,
        **loop_of(k, blocksize, nested, chosen["WEIGHTS"], split),
    }
    return Plan(replace(chosen, num_warps=warps), blocks_of(n, rows), constants)


def _form(weight: Packed4bit) -> tuple[int, int, int, int]:
    n, k = weight.shape
    return n, k, weight.blocksize, weight.nested.blocksize if weight.nested else 0


def _out(x: torch.Tensor, weight: Packed4bit) -> torch.Tensor:
    shape = (x.shape[0], weight.shape[0])
    return torch.empty(shape, dtype=stored_dtype(x.dtype), device=x.device)


def _gemv(
    x: torch.Tensor, weight: Packed4bit, bias: torch.Tensor | None, batch_invariant: bool
) -> torch.Tensor:
    from mdl.kernels.ops.linear4bit_kernels import gemv_4bit_kernel

    out = _out(x, weight)
    plan = gemv_plan(config("gemv_4bit", x), _KINDS[x.dtype], *_form(weight))
    launch_kernel(
        gemv_4bit_kernel,
        (plan.programs,),
        plan.config,
        pairs_of(x),
        *weight.kernel_pointers(),
        out if bias is None else bias,
        out,
        *weight.shape,
        BIAS=bias is not None,
        **plan.constants,
    )
    return out.to(x.dtype)


def gemm_height(rows: int, batch_invariant: bool) -> int:
    """Rows of x a GEMM program takes.

    One for all row counts makes "invariant" a property of the program, not of the order in which
    the hardware sums.
    """
    if batch_invariant:
        return 16
    return next((height for height in HEIGHTS if rows <= height), HEIGHTS[-1])


def _gemm(
    x: torch.Tensor, weight: Packed4bit, bias: torch.Tensor | None, batch_invariant: bool
) -> torch.Tensor:
    from mdl.kernels.ops.linear4bit_kernels import gemm_4bit_kernel

    out = _out(x, weight)
    m = x.shape[0]
    height = gemm_height(m, batch_invariant)
    operation = f"gemm_4bit_{height}"
    chosen = config(operation, x)
    n, k = weight.shape
    if is_narrow(operation, n, piece_of(k, weight.blocksize), chosen):
        chosen = config(f"{operation}_narrow", x)
    plan = gemm_plan(chosen, height, *_form(weight))
    launch_kernel(
        gemm_4bit_kernel,
        (plan.programs, blocks_of(m, height)),
        plan.config,
        x.contiguous(),
        *weight.kernel_pointers(),
        out if bias is None else bias,
        out,
        m,
        *weight.shape,
        UPCAST=interpreting() and x.dtype == torch.bfloat16,
        BIAS=bias is not None,
        **plan.constants,
    )
    return out.to(x.dtype)


def is_narrow(operation: str, n: int, piece: int, chosen: Config) -> bool:
    """Whether 64 rows of W a program leave fewer programs than `chosen` wants, and the table has
    a configuration for that; `piece` as from `piece_of`."""
    narrow = piece >= _SMALL and n // 64 < chosen["PROGRAMS"]
    return narrow and f"{operation}_narrow" in TABLE


def gemm_tile(n: int, piece: int, chosen: Config) -> tuple[int, int]:
    """(rows of W, slices of k) that a GEMM program takes; `piece` as from `piece_of`.

    A program that gets fewer rows than wanted gets twice the slices, up to 8. Where each few
    weights have a scale of their own it gets the fewest rows: more scales at once would spill.
    """
    split = chosen["SPLIT"]
    if split > 1 and piece < _SMALL:
        return 16, split
    rows = rows_of(n, chosen, least=16)
    halved = split > 1 and rows < chosen["BN"]
    return rows, max(split, min(2 * split, 8)) if halved else split


def piece_of(k: int, blocksize: int) -> int:
    """Bytes of a row of `k` elements that share a scale: a block, or the part no row's end cuts."""
    return math.gcd(k, blocksize) // 2


def pieces_of(k: int, blocksize: int, width: int) -> dict[str, int]:
    """How a program takes `width` elements of a row: equal pieces, each within one block.

    The largest power of two that divides the row and the block, so blocks that span rows and wide
    blocks need nothing but a shift to find their scale.
    """
    piece = min(math.gcd(k, blocksize), width, _LARGEST_PIECE)
    if piece < 16:
        width = 32  # each piece has a scale of its own; more of them at once would spill
    return {
        "HALF": piece // 2,
        "SHIFT": (blocksize // piece).bit_length() - 1,
        "GROUPS": width // piece,
    }


def loop_of(
    k: int, blocksize: int, nested_blocksize: int, width: int, split: int = 1
) -> dict[str, Any]:
    """The constants of a loop over rows of W, `width` elements of each slice of a row a turn."""
    pieces = pieces_of(k, blocksize, width)
    turn = 2 * pieces["HALF"] * pieces["GROUPS"] * split
    return {**pieces, "NESTED": nested_blocksize, "EVEN": k % turn == 0}
