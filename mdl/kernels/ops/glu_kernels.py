# mypy: ignore-errors
# (a @triton.jit body is Triton's language, not Python's)
"""Triton kernels of the gated units: activation(gate) * up, both directions."""

import triton
import triton.language as tl


@triton.jit
def activate(x, KIND: tl.constexpr):
    """The activation of float32 x and its derivative. KIND: 'silu', 'gelu_tanh' or 'gelu'.

    gelu_tanh: 0.5 * (1 + tanh(u)) is sigmoid(2 u), which needs no library function.
    """
    if KIND == "silu":
        gate = 1.0 / (1.0 + tl.exp(-x))
        value = x * gate
        slope = gate * (1.0 + x * (1.0 - gate))
    elif KIND == "gelu_tanh":
        # 1.5957691... = 2 * sqrt(2 / pi)
        inner = 1.5957691216057308 * x * (1.0 + 0.044715 * x * x)
        gate = 1.0 / (1.0 + tl.exp(-inner))
        value = x * gate
        slope = gate + value * (1.0 - gate) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    else:
        gate = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        value = x * gate
        slope = gate + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    return value, slope


@triton.jit
def glu_forward_kernel(
    gate_ptr, up_ptr, out_ptr, N, gate_stride, up_stride, KIND: tl.constexpr, BLOCK: tl.constexpr
):
    """out = activation(gate) * up.

    gate_ptr, up_ptr: [rows, N], *_stride elements from row to row. out_ptr: [rows, N], contiguous.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < N
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=there, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask=there, other=0.0).to(tl.float32)
    value, _ = activate(gate, KIND)
    out = (value * up).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * N + column, out, mask=there)


@triton.jit
def glu_backward_kernel(
    grad_ptr,
    gate_ptr,
    up_ptr,
    grad_gate_ptr,
    grad_up_ptr,
    N,
    gate_stride,
    up_stride,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of gate and up; the activation is computed again. All outputs are contiguous."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < N
    place = row * N + column
    grad = tl.load(grad_ptr + place, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=there, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask=there, other=0.0).to(tl.float32)
    value, slope = activate(gate, KIND)
    dtype = grad_gate_ptr.dtype.element_ty
    tl.store(grad_gate_ptr + place, (grad * up * slope).to(dtype), mask=there)
    tl.store(grad_up_ptr + place, (grad * value).to(dtype), mask=there)
