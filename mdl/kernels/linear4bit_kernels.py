# mypy: ignore-errors
# (a @triton.jit body is Triton's language, not Python's)
"""Triton kernels that multiply by a packed 4-bit weight without writing it out.

They read the packed weight once, decode it in registers and accumulate in float32. A row of W
is taken in pieces of 2 * HALF elements that share a scale: whole blocks, or equal parts of blocks
where blocks are wide or span rows. 2 * HALF divides K and the block, which is 2 * HALF << SHIFT.

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
    SHIFT: tl.constexpr,
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
    BN: rows of W a program; GROUPS: pieces of each row a turn. With one warp a program the gather
    below is a shuffle; with more it goes through shared memory.
    """
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = tl.arange(0, HALF)
    table = tl.load(code_ptr + tl.arange(0, 16))
    pieces = K // (2 * HALF)
    total = tl.zeros([BN, GROUPS, HALF], tl.float32)
    for start in range(0, pieces, GROUPS):
        column = start + tl.arange(0, GROUPS)
        group = row[:, None].to(tl.int64) * pieces + column[None, :]
        there = (row[:, None] < N) & (column[None, :] < pieces)
        scale = load_scale(
            group >> SHIFT if SHIFT > 0 else group,
            there,
            absmax_ptr,
            nested_code_ptr,
            nested_absmax_ptr,
            offset_ptr,
            NESTED,
        )
        byte = group[:, :, None] * HALF + inside[None, None, :]
        packed = tl.load(packed_ptr + byte, mask=there[:, :, None], other=0).to(tl.int32)
        pair = tl.load(
            x_ptr + column[:, None] * HALF + inside[None, :], mask=column[:, None] < pieces, other=0
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
def multiply_tile(
    total,
    row,
    m,
    column,
    across,
    down,
    x_ptr,
    packed_ptr,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    offset_ptr,
    table,
    M,
    N,
    pieces,
    HALF: tl.constexpr,
    SHIFT: tl.constexpr,
    NESTED: tl.constexpr,
    KIND: tl.constexpr,
    UPCAST: tl.constexpr,
    FLAT: tl.constexpr,
    TILE: tl.constexpr,
    PIECES: tl.constexpr,
):
    """total + W[row, k] @ x[m, k] for one turn's k: [..., BN, BM], with or without a batch before.

    row: [..., BN, 1]; m: [..., 1, BM]. column: [..., 1, GROUPS], the pieces of this turn;
    across: [..., 1, WIDE], their bytes within a row; down: [..., WIDE, 1], the same.
    FLAT, TILE, PIECES: the shapes [all], [..., BN, WIDE] and [..., BN, GROUPS, HALF].
    """
    width = pieces * HALF
    group = row.to(tl.int64) * pieces + column
    scale = load_scale(
        group >> SHIFT if SHIFT > 0 else group,
        (row < N) & (column < pieces),
        absmax_ptr,
        nested_code_ptr,
        nested_absmax_ptr,
        offset_ptr,
        NESTED,
    )
    byte = row.to(tl.int64) * width + across
    packed = tl.load(packed_ptr + byte, mask=(row < N) & (across < width), other=0).to(tl.int32)
    pair = tl.load(x_ptr + m.to(tl.int64) * width + down, mask=(down < width) & (m < M), other=0)
    flat = tl.reshape(packed, FLAT)
    scale = tl.expand_dims(scale, len(PIECES) - 1)
    high = tl.reshape(tl.gather(table, flat >> 4, 0), PIECES) * scale
    low = tl.reshape(tl.gather(table, flat & 15, 0), PIECES) * scale
    if UPCAST:
        even, odd = widen_pair(pair, KIND)
    else:
        even, odd = split_pair(pair, KIND)
    high = tl.reshape(high.to(even.dtype), TILE)
    low = tl.reshape(low.to(even.dtype), TILE)
    total = tl.dot(high, even, total)
    return tl.dot(low, odd, total)


@triton.jit
def store_tile(total, row, m, bias_ptr, out_ptr, M, N, BIAS: tl.constexpr):
    """Write [BN, BM] products, with the bias of each row of W, to out [M, N]."""
    if BIAS:
        bias = tl.load(bias_ptr + row, mask=row < N, other=0.0).to(tl.float32)
        total += bias[:, None]
    tl.store(
        out_ptr + m[None, :].to(tl.int64) * N + row[:, None],
        total.to(out_ptr.dtype.element_ty),
        mask=(row[:, None] < N) & (m[None, :] < M),
    )


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
    SHIFT: tl.constexpr,
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
    pieces = K // (2 * HALF)
    total = tl.zeros([BN, BM], tl.float32)
    for start in range(0, pieces, GROUPS):
        column = start + tl.arange(0, GROUPS)
        k = start * HALF + tl.arange(0, WIDE)
        total = multiply_tile(
            total,
            row[:, None],
            m[None, :],
            column[None, :],
            k[None, :],
            k[:, None],
            x_ptr,
            packed_ptr,
            absmax_ptr,
            nested_code_ptr,
            nested_absmax_ptr,
            offset_ptr,
            table,
            M,
            N,
            pieces,
            HALF,
            SHIFT,
            NESTED,
            KIND,
            UPCAST,
            [BN * WIDE],
            [BN, WIDE],
            [BN, GROUPS, HALF],
        )
    store_tile(total, row, m, bias_ptr, out_ptr, M, N, BIAS)


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
    SHIFT: tl.constexpr,
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
    table = tl.load(code_ptr + tl.arange(0, 16))
    pieces = K // (2 * HALF)
    part = tl.cdiv(pieces, SPLIT * GROUPS) * GROUPS
    first = tl.arange(0, SPLIT) * part
    total = tl.zeros([SPLIT, BN, BM], tl.float32)
    for start in range(0, part, GROUPS):
        column = first[:, None] + start + tl.arange(0, GROUPS)[None, :]
        k = (first * HALF)[:, None] + start * HALF + tl.arange(0, WIDE)[None, :]
        total = multiply_tile(
            total,
            row[None, :, None],
            m[None, None, :],
            column[:, None, :],
            k[:, None, :],
            k[:, :, None],
            x_ptr,
            packed_ptr,
            absmax_ptr,
            nested_code_ptr,
            nested_absmax_ptr,
            offset_ptr,
            table,
            M,
            N,
            pieces,
            HALF,
            SHIFT,
            NESTED,
            KIND,
            UPCAST,
            [SPLIT * BN * WIDE],
            [SPLIT, BN, WIDE],
            [SPLIT, BN, GROUPS, HALF],
        )
    store_tile(tl.sum(total, axis=0), row, m, bias_ptr, out_ptr, M, N, BIAS)
