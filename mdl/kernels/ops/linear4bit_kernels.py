# mypy: ignore-errors
# (a @triton.jit body is Triton's language, not Python's)
"""Triton kernels that multiply by a packed 4-bit weight without writing it out.

They read the packed weight once, decode it in registers and accumulate in float32. A row of W
is taken in pieces of 2 * HALF elements that share a scale: whole blocks, or equal parts of blocks
where blocks are wide or span rows. 2 * HALF divides K and the block, which is 2 * HALF << SHIFT.
EVEN says that the turns of the loop take K exactly, so that nothing has to be masked along it.
Rows past the last of W are the last again, and are not stored.
"""

import triton
import triton.language as tl

from mdl.kernels.nf4 import load_scale, load_some


@triton.jit
def widen_pair(pair, KIND: tl.constexpr):
    """The even and odd element of each pair, as float32. Only bits move; no arithmetic.

    KIND: the elements' dtype, 'bf16' (the upper half of a float32), 'fp16' or 'fp32'.
    """
    if KIND == "bf16":
        even = (pair << 16).to(tl.float32, bitcast=True)
        odd = (pair & -65536).to(tl.float32, bitcast=True)
    elif KIND == "fp16":
        even = (pair & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        odd = (pair >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        even = (pair & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
        odd = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
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
    EVEN: tl.constexpr,
    BN: tl.constexpr,
    GROUPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """out[n] = sum_k W[n, k] * x[k] + bias[n], one row of x; W stays in float32 until the end.

    x_ptr: pairs of x, int32 (16-bit x) or int64 (float32 x) [K / 2], contiguous: neighbouring
    elements as one integer of twice the width, the even one in the low half. A byte of the weight
    holds the same two elements, so nothing is interleaved.
    packed_ptr: uint8 [N * K / 2]. absmax_ptr and nested_*: see `load_scale`.
    code_ptr: float32 [16].
    bias_ptr: [N], any float dtype, read if BIAS. out_ptr: [N].
    BN: rows of W a program; GROUPS: pieces of each row a turn. STAGES: of the pipeline; a loop
    without a dot has one only where it says so. With one warp a program the gather below is a
    shuffle; with more it goes through shared memory.
    """
    WIDE: tl.constexpr = GROUPS * HALF
    PIECES: tl.constexpr = [BN, GROUPS, HALF]
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    weight_row = tl.minimum(row, N - 1)[:, None].to(tl.int64)
    table = tl.load(code_ptr + tl.arange(0, 16))
    pieces = K // (2 * HALF)
    total = tl.zeros(PIECES, tl.float32)
    for start in tl.range(0, pieces, GROUPS, num_stages=STAGES):
        column = (start + tl.arange(0, GROUPS))[None, :]
        # A lane takes 8 bytes together: with 16, four lanes would meet in each bank for their x.
        across = start * HALF + tl.max_contiguous(tl.multiple_of(tl.arange(0, WIDE), 8), 8)
        there = across < pieces * HALF
        group = weight_row * pieces + column
        scale = load_scale(
            group >> SHIFT if SHIFT > 0 else group,
            column < pieces,
            absmax_ptr,
            nested_code_ptr,
            nested_absmax_ptr,
            offset_ptr,
            NESTED,
            EVEN,
        )
        byte = weight_row * (pieces * HALF) + across[None, :]
        packed = load_some(packed_ptr + byte, there[None, :], EVEN).to(tl.int32)
        even, odd = widen_pair(load_some(x_ptr + across, there, EVEN), KIND)
        flat = tl.reshape(packed, [BN * WIDE])
        high = tl.reshape(tl.gather(table, flat >> 4, 0), [BN, WIDE])
        low = tl.reshape(tl.gather(table, flat & 15, 0), [BN, WIDE])
        both = tl.fma(low, tl.broadcast_to(odd[None, :], [BN, WIDE]), high * even[None, :])
        total = tl.fma(tl.reshape(both, PIECES), tl.broadcast_to(scale[:, :, None], PIECES), total)
    result = tl.sum(tl.sum(total, axis=2), axis=1)
    if BIAS:
        result += tl.load(bias_ptr + row, mask=row < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, result.to(out_ptr.dtype.element_ty), mask=row < N)


@triton.jit
def load_table(code_ptr, PLACES: tl.constexpr):
    """The 16 values twice in each of PLACES rows, for `decode`: one for every lane of a warp."""
    table = tl.load(code_ptr + (tl.arange(0, 32) & 15))
    return tl.broadcast_to(table[None, :], [PLACES, 32])


@triton.jit
def turned(WIDE: tl.constexpr, PARTS: tl.constexpr, RUN: tl.constexpr):
    """Which of 2 * WIDE elements of x meets each column of what `decode` gives: int32 [2 * WIDE].

    RUN at a time from each of PARTS equal parts.
    """
    k = tl.arange(0, 2 * WIDE)
    place = 2 * WIDE // PARTS * (k // RUN % PARTS) + RUN * (k // (PARTS * RUN)) + k % RUN
    return tl.max_contiguous(tl.multiple_of(place, RUN), RUN)


@triton.jit
def load_rows(x_ptr, k, m, M, K, EVEN: tl.constexpr):
    """x[m, k], zero past its ends; EVEN: there is none along K."""
    there = m < M if EVEN else (m < M) & (k < K)
    return tl.load(x_ptr + m * K + k, mask=there, other=0)


@triton.jit
def keep_source(value, byte):
    """`value`, float32, in a way from which Triton sees that it was made of `byte`s.

    Its choice of how many neighbours along k a lane hands to the tensor core looks for the
    narrowest load behind the operand and does not look through a gather. No instruction is left.
    """
    return (value.to(tl.int32, bitcast=True) | (byte >> 8)).to(tl.float32, bitcast=True)


@triton.jit
def swap_last(x, SWAP: tl.constexpr):
    """A tile of six dimensions, with its last two exchanged if SWAP."""
    if SWAP:
        x = tl.permute(x, (0, 1, 2, 3, 5, 4))
    return x


@triton.jit
def decode(
    packed,
    scale,
    table,
    DTYPE: tl.constexpr,
    WARPS: tl.constexpr,
    STEPS: tl.constexpr,
    HALF: tl.constexpr,
    PARTS: tl.constexpr,
    RUN: tl.constexpr,
):
    """The weights of a tile, rounded once, with their columns in the order of `turned`.

    packed: uint8 [ROWS, WIDE]. scale: float32 [ROWS, WIDE / HALF]. Result: DTYPE [ROWS, 2 * WIDE].
    WARPS: over so many warps the tensor cores spread the rows, in runs of 32 / PARTS * STEPS.

    Every byte stays in the thread that loads it, which is the one that hands it to the tensor
    core: a lane of a warp holds one of PARTS of a row, in which it takes RUN elements at a time.
    The sum over k does not care about the order, and x is read in the same. In k's own order, or
    with a RUN that is not the tensor core's, the decoded weight has to change lanes through shared
    memory, which then takes twice the time of the card's.
    """
    ROWS: tl.constexpr = packed.shape[0]
    LONG: tl.constexpr = packed.shape[1] // PARTS
    DEEP: tl.constexpr = 32 // PARTS
    RUNS: tl.constexpr = ROWS // (WARPS * STEPS * DEEP)
    # Neighbouring lanes hold the parts of a row, or, if a lane has half of it, its column's rows.
    HALVES: tl.constexpr = PARTS == 2
    OUTER: tl.constexpr = PARTS if HALVES else DEEP
    BACK: tl.constexpr = [RUNS, STEPS, LONG, WARPS, OUTER, 32 // OUTER]
    PIECES: tl.constexpr = [ROWS, packed.shape[1] // HALF, HALF]
    lanes = tl.permute(
        tl.reshape(packed, [RUNS, WARPS, STEPS, DEEP, PARTS, LONG]), (0, 2, 5, 1, 3, 4)
    )
    lanes = tl.reshape(swap_last(lanes, HALVES), [RUNS * STEPS * LONG * WARPS, 32])
    index = lanes.to(tl.int32)
    high = keep_source(tl.gather(table, index >> 4, 1), index)
    high = swap_last(tl.reshape(high, BACK), HALVES)
    low = swap_last(tl.reshape(tl.gather(table, index & 15, 1), BACK), HALVES)
    high = tl.reshape(tl.permute(high, (0, 3, 1, 4, 5, 2)), PIECES) * scale[:, :, None]
    low = tl.reshape(tl.permute(low, (0, 3, 1, 4, 5, 2)), PIECES) * scale[:, :, None]
    both = tl.reshape(tl.join(high.to(DTYPE), low.to(DTYPE)), [ROWS, PARTS, 2 * LONG // RUN, RUN])
    return tl.reshape(tl.permute(both, (0, 2, 1, 3)), [ROWS, 2 * PARTS * LONG])


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
    UPCAST: tl.constexpr,
    BIAS: tl.constexpr,
    EVEN: tl.constexpr,
    BN: tl.constexpr,
    GROUPS: tl.constexpr,
    BM: tl.constexpr,
    SPLIT: tl.constexpr,
    CORE: tl.constexpr,
):
    """out[m, n] = sum_k x[m, k] * W[n, k] + bias[n] for a few rows of x.

    x_ptr: float16 or bfloat16 [M, K], contiguous. out_ptr: [M, N], contiguous.
    packed_ptr, absmax_ptr, nested_*, code_ptr, bias_ptr: as in `gemv_4bit_kernel`.
    W is the left operand, so a handful of rows of x fills the narrow side of the tensor core. W is
    rounded to x's dtype once, after its scale.
    UPCAST: the interpreter cannot multiply bfloat16; both sides stay in float32 there.
    SPLIT: as many slices of k, one for each warp of a program, each one matrix of a batched dot;
    they are added at the end, in a fixed order. 1: the warps share out the rows of W, 16 each.
    CORE: which instruction of the tensor cores Triton takes, which decides what a lane hands it: 8
    mma, a quarter of a row, 8 elements at a time (because they come from bytes); 9 wgmma, the same
    2 at a time; 10 tcgen05, half a row at once.
    For one SPLIT the sum over k runs in the same order whatever M, BM and BN are, so a row's result
    does not depend on the rows beside it.
    """
    DTYPE: tl.constexpr = tl.float32 if UPCAST else x_ptr.dtype.element_ty
    WIDE: tl.constexpr = GROUPS * HALF
    WARPS: tl.constexpr = SPLIT if SPLIT > 1 else BN // 16
    PARTS: tl.constexpr = 2 if CORE == 10 else 4
    RUN: tl.constexpr = WIDE if CORE == 10 else (2 if CORE == 9 else 8)
    STEPS: tl.constexpr = BN // 8 if SPLIT > 1 else PARTS // 2
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    table = load_table(code_ptr, SPLIT * BN * WIDE // 32)
    pieces = K // (2 * HALF)
    part = tl.cdiv(pieces, SPLIT * GROUPS) * GROUPS
    # A line is a row of W in one slice of k. As one dimension, not two, lanes stay in their slice.
    line = tl.arange(0, SPLIT * BN)
    weight_row = tl.minimum(tl.program_id(0) * BN + line % BN, N - 1)[:, None].to(tl.int64) * pieces
    first = (line // BN * part)[:, None]
    column = first + tl.arange(0, GROUPS)[None, :]
    across = first * HALF + tl.arange(0, WIDE)[None, :]
    total = tl.zeros([SPLIT, BN, BM] if SPLIT > 1 else [BN, BM], tl.float32)
    for start in range(0, part, GROUPS):
        piece = column + start
        scale = load_scale(
            weight_row + piece >> SHIFT if SHIFT > 0 else weight_row + piece,
            piece < pieces,
            absmax_ptr,
            nested_code_ptr,
            nested_absmax_ptr,
            offset_ptr,
            NESTED,
            EVEN,
        )
        byte = across + start * HALF
        packed = load_some(packed_ptr + weight_row * HALF + byte, byte < pieces * HALF, EVEN)
        k = start * 2 * HALF + turned(WIDE, PARTS, RUN)
        if SPLIT > 1:
            k = k[None, None, :] + (tl.arange(0, SPLIT) * part * 2 * HALF)[:, None, None]
            # Rows before k: shared memory spreads its banks by the second dimension.
            x = load_rows(x_ptr, k, m[None, :, None].to(tl.int64), M, K, EVEN)
            x = tl.permute(x, (0, 2, 1)).to(DTYPE)
        else:
            x = load_rows(x_ptr, k[None, :], m[:, None].to(tl.int64), M, K, EVEN)
            x = tl.trans(x).to(DTYPE)
        w = decode(packed, scale, table, DTYPE, WARPS, STEPS, HALF, PARTS, RUN)
        if SPLIT > 1:
            w = tl.reshape(w, [SPLIT, BN, 2 * WIDE])
        total = tl.dot(w, x, total)
    if SPLIT > 1:
        total = tl.sum(total, axis=0)
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    store_tile(total, row, m, bias_ptr, out_ptr, M, N, BIAS)
