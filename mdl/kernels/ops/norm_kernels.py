# mypy: ignore-errors
# (a @triton.jit body is Triton's language, not Python's)
"""Triton kernels of RMSNorm and LayerNorm, one launch a direction."""

import triton
import triton.language as tl


@triton.jit
def norm_forward_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    sum_ptr,
    mean_ptr,
    rstd_ptr,
    rows,
    H,
    x_stride,
    residual_stride,
    eps,
    CENTER: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BIAS: tl.constexpr,
    OFFSET: tl.constexpr,
    CAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y = normalise(x + residual) * (weight + OFFSET) + bias, a few whole rows a program.

    x_ptr: [rows, H], `x_stride` elements from row to row; residual_ptr the same, if RESIDUAL.
    weight_ptr, bias_ptr: [H]. y_ptr: [rows, H], contiguous.
    sum_ptr: [rows, H], x + residual in x's dtype, written if RESIDUAL.
    mean_ptr: float32 [rows], written if CENTER (LayerNorm). rstd_ptr: float32 [rows].
    CAST: round the normalised value to x's dtype before the weight, as Llama's norm does.
    BLOCK: H rounded up to a power of two. ROWS: rows a program.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    there = (row[:, None] < rows) & (column[None, :] < H)
    x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask=there, other=0.0)
    x = x.to(tl.float32)
    if RESIDUAL:
        other = row[:, None] * residual_stride + column[None, :]
        x += tl.load(residual_ptr + other, mask=there, other=0.0).to(tl.float32)
        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row[:, None] * H + column[None, :], rounded, mask=there)
        x = rounded.to(tl.float32)
    if CENTER:
        mean = tl.sum(x, axis=1) / H
        tl.store(mean_ptr + row, mean, mask=row < rows)
        x = tl.where(there, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt_rn(tl.sum(x * x, axis=1) / H + eps)
    tl.store(rstd_ptr + row, rstd, mask=row < rows)
    x = x * rstd[:, None]
    if CAST:
        x = x.to(x_ptr.dtype.element_ty).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=column < H, other=0.0).to(tl.float32) + OFFSET
    y = x * weight[None, :]
    if BIAS:
        y += tl.load(bias_ptr + column, mask=column < H, other=0.0).to(tl.float32)[None, :]
    tl.store(y_ptr + row[:, None] * H + column[None, :], y.to(y_ptr.dtype.element_ty), mask=there)


@triton.jit
def norm_backward_kernel(
    grad_ptr,
    grad_sum_ptr,
    x_ptr,
    weight_ptr,
    mean_ptr,
    rstd_ptr,
    grad_x_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    rows,
    H,
    x_stride,
    CENTER: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BIAS: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of `norm_forward_kernel`; a program walks over many rows.

    grad_ptr: [rows, H], contiguous, the gradient of y; grad_sum_ptr: the same of x + residual, if
    RESIDUAL. x_ptr: [rows, H], the normalised input (the sum, if RESIDUAL).
    grad_x_ptr: [rows, H], contiguous. grad_weight_ptr, grad_bias_ptr (if BIAS): float32
    [programs, H], one partial sum a program, added up afterwards in a fixed order.
    """
    column = tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + column, mask=column < H, other=0.0).to(tl.float32) + OFFSET
    of_weight = tl.zeros([BLOCK], tl.float32)
    of_bias = tl.zeros([BLOCK], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        there = (row[:, None] < rows) & (column[None, :] < H)
        place = row[:, None] * H + column[None, :]
        grad = tl.load(grad_ptr + place, mask=there, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask=there, other=0.0)
        x = x.to(tl.float32)
        rstd = tl.load(rstd_ptr + row, mask=row < rows, other=0.0)
        if CENTER:
            mean = tl.load(mean_ptr + row, mask=row < rows, other=0.0)
            x = tl.where(there, x - mean[:, None], 0.0)
        x = x * rstd[:, None]
        of_weight += tl.sum(grad * x, axis=0)
        of_bias += tl.sum(grad, axis=0)
        inner = grad * weight[None, :]
        grad_x = inner - x * (tl.sum(inner * x, axis=1) / H)[:, None]
        if CENTER:
            grad_x -= (tl.sum(inner, axis=1) / H)[:, None]
        grad_x = grad_x * rstd[:, None]
        if RESIDUAL:
            grad_x += tl.load(grad_sum_ptr + place, mask=there, other=0.0).to(tl.float32)
        tl.store(grad_x_ptr + place, grad_x.to(grad_x_ptr.dtype.element_ty), mask=there)
    out = tl.program_id(0) * H + column
    tl.store(grad_weight_ptr + out, of_weight, mask=column < H)
    if BIAS:
        tl.store(grad_bias_ptr + out, of_bias, mask=column < H)
