# mypy: ignore-errors
# (a @triton.jit body is Triton's language, not Python's)
"""The Triton kernel of rotary position embedding: a token's heads of Q and K in one program."""

import triton
import triton.language as tl


@triton.jit
def rotate(
    in_ptr,
    out_ptr,
    heads,
    in_stride,
    out_stride,
    cos_low,
    cos_high,
    sin_low,
    sin_high,
    D,
    HALF: tl.constexpr,
    BACKWARD: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    REST: tl.constexpr,
):
    """Rotate `heads` heads of one token. in_ptr, out_ptr: the token's first head, [heads, D].

    in_stride, out_stride: elements from head to head. cos_*, sin_*: float32 [BLOCK], the factors
    of the lower and upper HALF. REST: 0, or D - 2 * HALF rounded up: elements passed through.
    """
    column = tl.arange(0, BLOCK)
    inside = column < HALF
    for first in range(0, heads, HEADS):
        head = first + tl.arange(0, HEADS)
        there = (head[:, None] < heads) & inside[None, :]
        place = head[:, None].to(tl.int64) * in_stride + column[None, :]
        low = tl.load(in_ptr + place, mask=there, other=0.0).to(tl.float32)
        high = tl.load(in_ptr + place + HALF, mask=there, other=0.0).to(tl.float32)
        if BACKWARD:
            new_low = low * cos_low[None, :] + high * sin_high[None, :]
            new_high = high * cos_high[None, :] - low * sin_low[None, :]
        else:
            new_low = low * cos_low[None, :] - high * sin_low[None, :]
            new_high = high * cos_high[None, :] + low * sin_high[None, :]
        target = head[:, None].to(tl.int64) * out_stride + column[None, :]
        dtype = out_ptr.dtype.element_ty
        tl.store(out_ptr + target, new_low.to(dtype), mask=there)
        tl.store(out_ptr + target + HALF, new_high.to(dtype), mask=there)
        if REST > 0:
            more = 2 * HALF + tl.arange(0, REST)
            kept = (head[:, None] < heads) & (more[None, :] < D)
            source = head[:, None].to(tl.int64) * in_stride + more[None, :]
            passed = tl.load(in_ptr + source, mask=kept, other=0.0).to(tl.float32)
            target = head[:, None].to(tl.int64) * out_stride + more[None, :]
            tl.store(out_ptr + target, passed.to(dtype), mask=kept)


@triton.jit
def rope_kernel(
    q_ptr,
    k_ptr,
    cos_ptr,
    sin_ptr,
    q_out_ptr,
    k_out_ptr,
    tokens,
    q_heads,
    k_heads,
    D,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    cos_batch,
    cos_token,
    HALF: tl.constexpr,
    BACKWARD: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    REST: tl.constexpr,
):
    """Rotate Q and K; one program a (token, batch).

    q_ptr: [batch, q_heads, tokens, D] with strides q_batch, q_head, q_token, 1; k_ptr likewise.
    cos_ptr, sin_ptr: [batch or 1, tokens, 2 * HALF] with strides cos_batch (0 to share), cos_token.
    q_out_ptr: [batch, tokens, q_heads, D], contiguous; k_out_ptr likewise.
    """
    token = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < HALF
    place = batch * cos_batch + token * cos_token + column
    cos_low = tl.load(cos_ptr + place, mask=inside, other=0.0).to(tl.float32)
    cos_high = tl.load(cos_ptr + place + HALF, mask=inside, other=0.0).to(tl.float32)
    sin_low = tl.load(sin_ptr + place, mask=inside, other=0.0).to(tl.float32)
    sin_high = tl.load(sin_ptr + place + HALF, mask=inside, other=0.0).to(tl.float32)
    rotate(
        q_ptr + batch * q_batch + token * q_token,
        q_out_ptr + (batch * tokens + token) * q_heads * D,
        q_heads, q_head, D, cos_low, cos_high, sin_low, sin_high,
        D, HALF, BACKWARD, HEADS, BLOCK, REST,
    )  # fmt: skip
    rotate(
        k_ptr + batch * k_batch + token * k_token,
        k_out_ptr + (batch * tokens + token) * k_heads * D,
        k_heads, k_head, D, cos_low, cos_high, sin_low, sin_high,
        D, HALF, BACKWARD, HEADS, BLOCK, REST,
    )  # fmt: skip
