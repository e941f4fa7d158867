# mypy: ignore-errors
# (a @triton.jit body is Triton's language, not Python's)
"""Triton kernels of cross-entropy over a large vocabulary, one row a program."""

import triton
import triton.language as tl


@triton.jit
def scaled_logits(z, SCALE: tl.constexpr, CAP: tl.constexpr):
    """The logits the loss sees, cap * tanh(scale * z / cap), and the slope of that."""
    z = z * SCALE
    slope = tl.full(z.shape, SCALE, tl.float32)
    if CAP > 0.0:
        bent = 2.0 / (1.0 + tl.exp(-2.0 * z / CAP)) - 1.0
        z = CAP * bent
        slope = SCALE * (1.0 - bent * bent)
    return z, slope


@triton.jit
def cross_entropy_forward_kernel(
    logits_ptr,
    labels_ptr,
    loss_ptr,
    lse_ptr,
    V,
    stride,
    ignore,
    SMOOTHING: tl.constexpr,
    Z_LOSS: tl.constexpr,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The loss and the log-sum-exp of each row, in one pass over it.

    logits_ptr: [rows, V], `stride` elements from row to row. labels_ptr: int64 [rows].
    loss_ptr, lse_ptr: float32 [rows]; an ignored row gets loss 0, an impossible label NaN.
    """
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    lanes = tl.arange(0, BLOCK)
    # One running maximum and sum a lane; the lanes meet once, at the end. The lowest float, not
    # minus infinity, whose difference with itself is NaN.
    top = tl.full([BLOCK], -3.4028234663852886e38, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    plain = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        column = start + lanes
        there = column < V
        z = tl.load(logits_ptr + row * stride + column, mask=there, other=0.0).to(tl.float32)
        z, _ = scaled_logits(z, SCALE, CAP)
        if SMOOTHING > 0.0:
            plain += tl.where(there, z, 0.0)
        z = tl.where(there, z, float("-inf"))
        # Of exp(z - new) and exp(top - new) one is 1: one exponential an element, not two.
        above = z - top
        small = tl.exp(-tl.abs(above))
        total = tl.where(above > 0.0, total * small + 1.0, total + small)
        top = tl.maximum(z, top)
    highest = tl.max(top, axis=0)
    total = tl.sum(total * tl.exp(top - highest), axis=0)
    lse = highest + tl.log(total)
    known = (label >= 0) & (label < V)
    own = tl.load(logits_ptr + row * stride + tl.where(known, label, 0)).to(tl.float32)
    own, _ = scaled_logits(own, SCALE, CAP)
    loss = lse - tl.where(known, own, float("nan"))
    if SMOOTHING > 0.0:
        loss = (1.0 - SMOOTHING) * loss + SMOOTHING * (lse - tl.sum(plain, axis=0) / V)
    if Z_LOSS > 0.0:
        loss += Z_LOSS * lse * lse
    tl.store(loss_ptr + row, tl.where(label == ignore, 0.0, loss))
    tl.store(lse_ptr + row, lse)


@triton.jit
def cross_entropy_backward_kernel(
    grad_ptr,
    logits_ptr,
    labels_ptr,
    lse_ptr,
    out_ptr,
    V,
    stride,
    out_stride,
    ignore,
    SMOOTHING: tl.constexpr,
    Z_LOSS: tl.constexpr,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of the logits; out_ptr may be logits_ptr itself.

    grad_ptr: float32 [rows], the gradient of each row's loss. Others as in the forward kernel.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < V
    label = tl.load(labels_ptr + row)
    grad = tl.where(label == ignore, 0.0, tl.load(grad_ptr + row))
    lse = tl.load(lse_ptr + row)
    z = tl.load(logits_ptr + row * stride + column, mask=there, other=0.0).to(tl.float32)
    z, slope = scaled_logits(z, SCALE, CAP)
    share = tl.exp(z - lse)
    if Z_LOSS > 0.0:
        share = share * (1.0 + 2.0 * Z_LOSS * lse)
    if SMOOTHING > 0.0:
        share -= SMOOTHING / V
    share = tl.where(column == label, share - (1.0 - SMOOTHING), share)
    result = tl.where(label == ignore, 0.0, grad * share * slope)
    tl.store(out_ptr + row * out_stride + column, result.to(out_ptr.dtype.element_ty), mask=there)
