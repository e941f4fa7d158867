# mypy: ignore-errors
# (a @triton.jit body is Triton's language, not Python's)
"""Triton kernels that turn packed 4-bit weights into numbers and back.

A packed weight is flat and row-major, two elements a byte, the even element in the high nibble.
Each `2 * HALF` consecutive elements share one scale; blocks do not know about rows.
"""

import triton
import triton.language as tl


@triton.jit
def load_some(pointer, there, ALL: tl.constexpr):
    """What is at `pointer`, and zero where it is not `there`. ALL: all of it is, no mask."""
    if ALL:
        value = tl.load(pointer)
    else:
        value = tl.load(pointer, mask=there, other=0)
    return value


@triton.jit
def load_scale(
    group,
    there,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    offset_ptr,
    NESTED: tl.constexpr,
    ALL: tl.constexpr,
):
    """The float32 scale of each block in `group`, decoding double quantization if NESTED > 0.

    absmax_ptr: float32 [blocks], or uint8 [blocks] if NESTED.
    nested_code_ptr: float32 [256]; nested_absmax_ptr: float32 [ceil(blocks / NESTED)];
    offset_ptr: float32 [1]. Unused unless NESTED, which is the nested block size.
    there, ALL: see `load_some`.
    """
    if NESTED > 0:
        index = load_some(absmax_ptr + group, there, ALL).to(tl.int32)
        second = load_some(nested_absmax_ptr + group // NESTED, there, ALL)
        first = load_some(nested_code_ptr + index, there, ALL)
        scale = first * second + tl.load(offset_ptr)
    else:
        scale = load_some(absmax_ptr + group, there, ALL)
    return scale


@triton.jit
def dequantize_4bit_kernel(
    packed_ptr,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    offset_ptr,
    code_ptr,
    out_ptr,
    n,
    bytes,
    HALF: tl.constexpr,
    NESTED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """out[i] = code[nibble i] * scale[i // (2 * HALF)] for i < n, in one launch.

    packed_ptr: uint8 [bytes], contiguous; bytes is ceil(n / 2), and an argument because a mask that
    computes it would make every load a single byte.
    absmax_ptr, nested_*_ptr, offset_ptr: see `load_scale`.
    code_ptr: float32 [16].
    out_ptr: float32, float16 or bfloat16 [n], contiguous.
    HALF: bytes a block (block size / 2). GROUPS: blocks a program.
    """
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    scale = load_scale(
        group,
        group * (2 * HALF) < n,
        absmax_ptr,
        nested_code_ptr,
        nested_absmax_ptr,
        offset_ptr,
        NESTED,
        ALL=False,
    )
    byte = group[:, None] * HALF + tl.arange(0, HALF)[None, :]
    packed = tl.load(packed_ptr + byte, mask=byte < bytes, other=0).to(tl.int32)
    high = tl.load(code_ptr + (packed >> 4)) * scale[:, None]
    low = tl.load(code_ptr + (packed & 15)) * scale[:, None]
    element = group[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    value = tl.interleave(high, low).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + element, value, mask=element < n)


@triton.jit
def quantize_4bit_kernel(
    x_ptr,
    inside_ptr,
    nibbles_ptr,
    packed_ptr,
    absmax_ptr,
    n,
    bytes,
    HALF: tl.constexpr,
    GROUPS: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Pack whole blocks of x into nibbles and one scale each, reading x once.

    x_ptr: float32, float16 or bfloat16 [n], contiguous; n is a multiple of 2 * HALF.
    inside_ptr: float32 [4 * CELLS], nibbles_ptr: int32 [4 * CELLS]: see `nf4_tables.grid`.
    packed_ptr: uint8 [bytes], bytes being n / 2. absmax_ptr: float32 [n / (2 * HALF)].

    As bitsandbytes' CPU path does it: values are multiplied by the reciprocal of their scale; a NaN
    makes its block's scale NaN, and NaN is packed as the largest value.
    """
    BLOCK: tl.constexpr = 2 * HALF
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    element = group[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + element, mask=element < n, other=0.0).to(tl.float32)
    # As integers, magnitudes order like the floats they are, and NaN is above infinity.
    magnitude = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    scale = tl.max(magnitude, axis=1).to(tl.float32, bitcast=True)
    value = x * tl.div_rn(1.0, tl.where(scale < 1e-38, 1e-38, scale))[:, None]
    # 1.5 * 2^23 as an addend leaves the cell's number in the low bits. NaN ends in a cell without a
    # bound (the last on a GPU, the first on a CPU), where only NaN is not below infinity.
    shifted = value * CELLS + (12582912.0 + CELLS)
    cell = shifted.to(tl.int32, bitcast=True) & (4 * CELLS - 1)
    pair = tl.load(nibbles_ptr + cell)
    index = tl.where(value <= tl.load(inside_ptr + cell), pair & 15, pair >> 4)
    high, low = tl.split(tl.reshape(index, [GROUPS, HALF, 2]))
    byte = group[:, None] * HALF + tl.arange(0, HALF)[None, :]
    tl.store(packed_ptr + byte, ((high << 4) | low).to(tl.uint8), mask=byte < bytes)
    tl.store(absmax_ptr + group, scale, mask=group * BLOCK < n)


@triton.jit
def quantize_8bit_kernel(x_ptr, table_ptr, out_ptr, absmax_ptr, n, BLOCK: tl.constexpr):
    """Quantize scales to eight bits, one block of them a program.

    x_ptr: float32 [n]. table_ptr: uint8 [65536], the code of each of 65536 equal steps of
    [-1, 1]. out_ptr: uint8 [n]. absmax_ptr: float32 [ceil(n / BLOCK)].

    The step is a product and a sum rounded once to float32, as the fused multiply-add of
    bitsandbytes' CPU build has it; float64 holds the product exactly. NaN gets step 0.
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + index, mask=index < n, other=0.0)
    number = x == x
    scale = tl.max(tl.where(number, tl.abs(x), 0.0), axis=0)
    tl.store(absmax_ptr + tl.program_id(0), scale)
    value = x * tl.div_rn(1.0, tl.where(scale > 0, scale, 1.0))
    number = value == value
    value = tl.minimum(tl.maximum(tl.where(number, value, -1.0), -1.0), 1.0)
    step = (((value + 1.0) * 0.5).to(tl.float64) * 65535.0 + 0.5).to(tl.float32).to(tl.int32)
    code = tl.load(table_ptr + tl.where(number, step, 0))
    code = tl.where(scale > 0, code, 0)
    tl.store(out_ptr + index, code.to(tl.uint8), mask=index < n)
