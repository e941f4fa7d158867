# mypy: ignore-errors
# (a @triton.jit body is Triton's language, not Python's)
"""Triton kernels that turn packed 4-bit weights into numbers and back.

A packed weight is flat and row-major, two elements a byte, the even element in the high nibble.
Each `2 * HALF` consecutive elements share one scale; blocks do not know about rows.
"""

import triton
import triton.language as tl


@triton.jit
def load_scale(
    group,
    mask,
    absmax_ptr,
    nested_code_ptr,
    nested_absmax_ptr,
    offset_ptr,
    NESTED: tl.constexpr,
):
    """The float32 scale of each block in `group`, decoding double quantization if NESTED > 0.

    absmax_ptr: float32 [blocks], or uint8 [blocks] if NESTED.
    nested_code_ptr: float32 [256]; nested_absmax_ptr: float32 [ceil(blocks / NESTED)];
    offset_ptr: float32 [1]. Unused unless NESTED, which is the nested block size.
    """
    if NESTED > 0:
        index = tl.load(absmax_ptr + group, mask=mask, other=0).to(tl.int32)
        second = tl.load(nested_absmax_ptr + group // NESTED, mask=mask, other=0.0)
        first = tl.load(nested_code_ptr + index, mask=mask, other=0.0)
        scale = first * second + tl.load(offset_ptr)
    else:
        scale = tl.load(absmax_ptr + group, mask=mask, other=0.0)
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
    HALF: tl.constexpr,
    NESTED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """out[i] = code[nibble i] * scale[i // (2 * HALF)] for i < n, in one launch.

    packed_ptr: uint8 [ceil(n / 2)], contiguous.
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
    )
    byte = group[:, None] * HALF + tl.arange(0, HALF)[None, :]
    packed = tl.load(packed_ptr + byte, mask=2 * byte < n, other=0).to(tl.int32)
    high = tl.load(code_ptr + (packed >> 4)) * scale[:, None]
    low = tl.load(code_ptr + (packed & 15)) * scale[:, None]
    element = group[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    value = tl.interleave(high, low).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + element, value, mask=element < n)
