# mypy: ignore-errors
# (a @triton.jit body is Triton's language, not Python's)
"""Triton kernels that multiply by a packed 4-bit weight without writing it out.

Both read the packed weight once, decode it in registers and accumulate in float32. Rows of the
weight must be whole blocks (K a multiple of the block size).

x is read as pairs: two neighbouring elements as one integer of twice the width, the even element
in the low half. A byte of the weight holds the same two elements, so nothing is interleaved.
"""

import triton
import triton.language as tl

from mdl.kernels.nf4_kernels import load_scale


@triton.jit
def split_pair(pair, KIND: tl.constexpr):
    """The even and odd element of each pair, in their own dtype.

    KIND: 'bf16', 'fp16' or 'fp32'. Only bits move; no arithmetic.
    """
    if KIND == "fp32":
        even = (pair & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
        odd = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    elif KIND == "fp16":
        even = (pair & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True)
        odd = (pair >> 16).to(tl.int16).to(tl.float16, bitcast=True)
    else:
        even = (pair & 0xFFFF).to(tl.int16).to(tl.bfloat16, bitcast=True)
        odd = (pair >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return even, odd


@triton.jit
def widen_pair(pair, KIND: tl.constexpr):
    """`split_pair`, as float32. A bfloat16 is the upper half of a float32."""
    if KIND == "bf16":
        even = (pair << 16).to(tl.float32, bitcast=True)
        odd = (pair & -65536).to(tl.float32, bitcast=True)
    else:
        even, odd = split_pair(pair, KIND)
        even = even.to(tl.float32)
        odd = odd.to(tl.float32)
    return even, odd


@triton.jit
def gemv_4bit_kernel(
    x_ptr,
    packed_ptr,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    offset_ptr,
    code_ptr,
    bias_ptr,
    out_ptr,
    N,
    K,
    HALF: tl.constexpr,
    NESTED: tl.constexpr,
    KIND: tl.constexpr,
    BIAS: tl.constexpr,
    BN: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """out[n] = sum_k W[n, k] * x[k] + bias[n], one row of x; W stays in float32 until the end.

    x_ptr: pairs of x, int32 (16-bit x) or int64 (float32 x) [K / 2], contiguous.
    packed_ptr: uint8 [N * K / 2]. absmax_ptr and nested_*: see `load_scale`.
    code_ptr: float32 [16].
    bias_ptr: [N], any float dtype, read if BIAS. out_ptr: [N].
    BN: rows of W a program; GROUPS: blocks of each row a turn. With one warp a program the gather
    below is a shuffle; with more it goes through shared memory.
    """
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = tl.arange(0, HALF)
    table = tl.load(code_ptr + tl.arange(0, 16))
    blocks = K // (2 * HALF)
    total = tl.zeros([BN, GROUPS, HALF], tl.float32)
    for start in range(0, blocks, GROUPS):
        column = start + tl.arange(0, GROUPS)
        group = row[:, None].to(tl.int64) * blocks + column[None, :]
        there = (row[:, None] < N) & (column[None, :] < blocks)
        scale = load_scale(
            group, there, absmax_ptr, nested_code_ptr, nested_absmax_ptr, offset_ptr, NESTED
        )
        byte = group[:, :, None] * HALF + inside[None, None, :]
        packed = tl.load(packed_ptr + byte, mask=there[:, :, None], other=0).to(tl.int32)
        pair = tl.load(
            x_ptr + column[:, None] * HALF + inside[None, :], mask=column[:, None] < blocks, other=0
        )
        even, odd = widen_pair(pair, KIND)
        SHAPE: tl.constexpr = [BN, GROUPS, HALF]
        flat = tl.reshape(packed, [BN * GROUPS * HALF])
        high = tl.reshape(tl.gather(table, flat >> 4, 0), SHAPE)
        low = tl.reshape(tl.gather(table, flat & 15, 0), SHAPE)
        both = tl.fma(low, tl.broadcast_to(odd[None], SHAPE), high * even[None])
        total = tl.fma(both, tl.broadcast_to(scale[:, :, None], SHAPE), total)
    result = tl.sum(tl.sum(total, axis=2), axis=1)
    if BIAS:
        result += tl.load(bias_ptr + row, mask=row < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, result.to(out_ptr.dtype.element_ty), mask=row < N)


@triton.jit
def gemm_4bit_kernel(
    x_ptr,
    packed_ptr,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    offset_ptr,
    code_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    HALF: tl.constexpr,
    NESTED: tl.constexpr,
    KIND: tl.constexpr,
    BIAS: tl.constexpr,
    UPCAST: tl.constexpr,
    BN: tl.constexpr,
    GROUPS: tl.constexpr,
    BM: tl.constexpr,
):
    """out[m, n] = sum_k x[m, k] * W[n, k] + bias[n] for a few rows of x.

    x_ptr: pairs of x, int32 [M, K / 2], contiguous. out_ptr: [M, N], contiguous.
    packed_ptr, absmax_ptr, nested_*, code_ptr, bias_ptr: as in `gemv_4bit_kernel`.
    W is the left operand, so a handful of rows of x fills the narrow side of the tensor core. W is
    rounded to x's dtype once, after its scale. The sum over k runs in the same order whatever M and
    BM are, so a row's result does not depend on the rows beside it.
    UPCAST: the interpreter cannot multiply bfloat16; it keeps both sides in float32 there.
    """
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    WIDE: tl.constexpr = GROUPS * HALF
    table = tl.load(code_ptr + tl.arange(0, 16))
    blocks = K // (2 * HALF)
    total = tl.zeros([BN, BM], tl.float32)
    for start in range(0, blocks, GROUPS):
        column = start + tl.arange(0, GROUPS)
        group = row[:, None].to(tl.int64) * blocks + column[None, :]
        there = (row[:, None] < N) & (column[None, :] < blocks)
        scale = load_scale(
            group, there, absmax_ptr, nested_code_ptr, nested_absmax_ptr, offset_ptr, NESTED
        )
        k = start * HALF + tl.arange(0, WIDE)
        within = k < blocks * HALF
        byte = row[:, None].to(tl.int64) * (blocks * HALF) + k[None, :]
        packed = tl.load(packed_ptr + byte, mask=(row[:, None] < N) & within[None, :], other=0).to(
            tl.int32
        )
        pair = tl.load(
            x_ptr + m[None, :].to(tl.int64) * (blocks * HALF) + k[:, None],
            mask=within[:, None] & (m[None, :] < M),
            other=0,
        )
        flat = tl.reshape(packed, [BN * WIDE])
        high = tl.reshape(tl.gather(table, flat >> 4, 0), [BN, GROUPS, HALF]) * scale[:, :, None]
        low = tl.reshape(tl.gather(table, flat & 15, 0), [BN, GROUPS, HALF]) * scale[:, :, None]
        if UPCAST:
            even, odd = widen_pair(pair, KIND)
        else:
            even, odd = split_pair(pair, KIND)
        high = tl.reshape(high.to(even.dtype), [BN, WIDE])
        low = tl.reshape(low.to(even.dtype), [BN, WIDE])
        total = tl.dot(high, even, total)
        total = tl.dot(low, odd, total)
    if BIAS:
        bias = tl.load(bias_ptr + row, mask=row < N, other=0.0).to(tl.float32)
        total += bias[:, None]
    tl.store(
        out_ptr + m[None, :].to(tl.int64) * N + row[:, None],
        total.to(out_ptr.dtype.element_ty),
        mask=(row[:, None] < N) & (m[None, :] < M),
    )


@triton.jit
def gemm_4bit_split_kernel(
    x_ptr,
    packed_ptr,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    offset_ptr,
    code_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    HALF: tl.constexpr,
    NESTED: tl.constexpr,
    KIND: tl.constexpr,
    BIAS: tl.constexpr,
    UPCAST: tl.constexpr,
    BN: tl.constexpr,
    GROUPS: tl.constexpr,
    BM: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """`gemm_4bit_kernel` for a W with few rows: the program's warps share out k.

    Each of SPLIT slices of k is one matrix of a batched dot; the slices are added at the end, in a
    fixed order. Same arguments otherwise.
    """
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    WIDE: tl.constexpr = GROUPS * HALF
    FOUR: tl.constexpr = [SPLIT, BN, GROUPS, HALF]
    table = tl.load(code_ptr + tl.arange(0, 16))
    blocks = K // (2 * HALF)
    part = tl.cdiv(blocks, SPLIT * GROUPS) * GROUPS
    first = tl.arange(0, SPLIT) * part
    total = tl.zeros([SPLIT, BN, BM], tl.float32)
    for start in range(0, part, GROUPS):
        column = first[:, None] + start + tl.arange(0, GROUPS)[None, :]
        group = row[None, :, None].to(tl.int64) * blocks + column[:, None, :]
        there = (row[None, :, None] < N) & (column[:, None, :] < blocks)
        scale = load_scale(
            group, there, absmax_ptr, nested_code_ptr, nested_absmax_ptr, offset_ptr, NESTED
        )
        k = (first * HALF)[:, None] + start * HALF + tl.arange(0, WIDE)[None, :]
        within = k < blocks * HALF
        byte = row[None, :, None].to(tl.int64) * (blocks * HALF) + k[:, None, :]
        packed = tl.load(
            packed_ptr + byte, mask=(row[None, :, None] < N) & within[:, None, :], other=0
        ).to(tl.int32)
        pair = tl.load(
            x_ptr + m[None, None, :].to(tl.int64) * (blocks * HALF) + k[:, :, None],
            mask=within[:, :, None] & (m[None, None, :] < M),
            other=0,
        )
        flat = tl.reshape(packed, [SPLIT * BN * WIDE])
        high = tl.reshape(tl.gather(table, flat >> 4, 0), FOUR) * scale[:, :, :, None]
        low = tl.reshape(tl.gather(table, flat & 15, 0), FOUR) * scale[:, :, :, None]
        if UPCAST:
            even, odd = widen_pair(pair, KIND)
        else:
            even, odd = split_pair(pair, KIND)
        high = tl.reshape(high.to(even.dtype), [SPLIT, BN, WIDE])
        low = tl.reshape(low.to(even.dtype), [SPLIT, BN, WIDE])
        total = tl.dot(high, even, total)
        total = tl.dot(low, odd, total)
    result = tl.sum(total, axis=0)
    if BIAS:
        bias = tl.load(bias_ptr + row, mask=row < N, other=0.0).to(tl.float32)
        result += bias[:, None]
    tl.store(
        out_ptr + m[None, :].to(tl.int64) * N + row[:, None],
        result.to(out_ptr.dtype.element_ty),
        mask=(row[:, None] < N) & (m[None, :] < M),
    )
