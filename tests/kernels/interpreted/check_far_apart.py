"""Tensors that reach past 2^31 elements: the kernels' index arithmetic must not wrap.

The distance from row to row fits 32 bits, twice the distance does not. The tensors are views of
memory that nobody touches in between, so they cost two pages a row.
"""

import pytest
import torch

import mdl.kernels as kernels
from mdl.kernels.ops.glu import glu_backward, glu_forward
from mdl.kernels.ops.glu_reference import reference_glu, reference_glu_backward
from mdl.kernels.ops.loss import ce_backward, ce_forward
from mdl.kernels.ops.loss_reference import reference_cross_entropy, reference_cross_entropy_backward
from mdl.kernels.ops.norm import rms_backward, rms_forward
from mdl.kernels.ops.norm_reference import reference_rms_norm, reference_rms_norm_backward
from mdl.kernels.ops.rope import rotate
from mdl.kernels.ops.rope_reference import reference_rope

FAR = (1 << 30) + 32
ROWS, WIDTH = 3, 40


@pytest.fixture(scope="module")
def memory():
    """Over 2^31 float16 elements that take no memory until they are written."""
    return torch.empty((ROWS - 1) * FAR + 4096, dtype=torch.float16)


def far(memory, start=0, seed=0):
    """Three rows of random numbers, FAR elements apart."""
    rows = memory[start:].as_strided((ROWS, WIDTH), (FAR, 1))
    rows.copy_(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed)))
    assert rows.stride(0) < 2**31 < 2 * rows.stride(0)
    return rows


def assert_near(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-3, atol=5e-3)


def test_norms(memory):
    x, residual, weight = far(memory), far(memory, 1024, 1), torch.randn(WIDTH).half()
    y, total, rstd = rms_forward(x, residual, weight, 1e-6, 0.0, True)
    assert torch.equal(total, x + residual)
    assert_near((y,), reference_rms_norm(x + residual, weight, 1e-6, 0.0, True)[:1])
    _, _, rstd = rms_forward(x, None, weight, 1e-6, 0.0, True)
    grad = torch.randn(ROWS, WIDTH).half()
    assert_near(
        rms_backward(grad, None, x, weight, rstd, 0.0),
        reference_rms_norm_backward(grad, x, weight, rstd, 0.0),
    )


def test_gated_units(memory):
    gate, up = far(memory), far(memory, 1024, 1)
    assert_near((glu_forward(gate, up, "silu"),), (reference_glu(gate, up, "silu"),))
    grad = torch.randn(ROWS, WIDTH).half()
    assert_near(
        glu_backward(grad, gate, up, "silu"), reference_glu_backward(grad, gate, up, "silu")
    )


def test_cross_entropy(memory):
    logits, labels, how = far(memory), torch.tensor([3, 39, 0]), kernels.LossOptions()
    ours, exact = ce_forward(logits, labels, *how.flat()), reference_cross_entropy
    assert_near(ours, exact(logits, labels, how))
    grad = torch.ones(ROWS)
    assert_near(
        (ce_backward(grad, logits, labels, ours[1], *how.flat()),),
        (reference_cross_entropy_backward(grad, logits, labels, ours[1], how),),
    )


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_rotary_embedding(memory, dim):
    """Batches, heads or tokens far apart."""
    shape, stride = [1, 1, 1, WIDTH], [WIDTH, WIDTH, WIDTH, 1]
    shape[dim], stride[dim] = ROWS, FAR
    far(memory)
    q = memory.as_strided(shape, stride)
    angle = torch.linspace(0, 3, shape[2] * WIDTH).view(1, shape[2], WIDTH)
    cos, sin = angle.cos().half(), angle.sin().half()
    exact = reference_rope(q, cos, sin)
    assert_near(rotate(q, q, cos, sin, False), (exact, exact))
