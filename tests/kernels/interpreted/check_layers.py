"""Norm, rotary, gated-unit and loss kernels in the interpreter, against their references."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mdl.kernels as kernels
from mdl.kernels.ops.glu import apply_glu, glu_backward
from mdl.kernels.ops.glu_reference import KINDS, reference_glu, reference_glu_backward
from mdl.kernels.ops.loss import ce_backward, ce_forward
from mdl.kernels.ops.loss_reference import reference_cross_entropy, reference_cross_entropy_backward
from mdl.kernels.ops.norm import layer_backward, layer_forward, rms_backward, rms_forward
from mdl.kernels.ops.norm_reference import (
    reference_layer_norm,
    reference_layer_norm_backward,
    reference_rms_norm,
    reference_rms_norm_backward,
)
from mdl.kernels.ops.rope import rotate
from mdl.kernels.ops.rope_reference import reference_rope, reference_rope_backward

DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
NEAR = {torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(ours, theirs, dtype, factor=1.0):
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        near = NEAR[dtype] * factor
        torch.testing.assert_close(one, other, rtol=near, atol=near)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 300),
    dtype=DTYPES,
    offset=st.sampled_from([0.0, 1.0]),
    cast=st.booleans(),
    add=st.booleans(),
)
def test_rms_norm(rows, width, dtype, offset, cast, add):
    x, weight = normal(rows, width, dtype=dtype), normal(width, dtype=dtype, seed=1)
    residual, upper = (normal(rows, width, dtype=dtype, seed=s) if add else None for s in (3, 4))
    total = x + residual if add else x
    y, kept, rstd = rms_forward(x, residual, weight, 1e-5, offset, cast)
    assert torch.equal(kept, total) == add
    reference, expected_rstd = reference_rms_norm(total, weight, 1e-5, offset, cast)
    assert_near((y, rstd), (reference, expected_rstd), dtype)
    grad = normal(rows, width, dtype=dtype, seed=2)
    ours = rms_backward(grad, upper, total, weight, rstd, offset)
    of_x, of_weight = reference_rms_norm_backward(grad, total, weight, rstd, offset)
    assert_near(ours, (of_x + upper if add else of_x, of_weight), dtype, 10)


def test_add_rms_norm_of_strided_rows():
    wide, residual, weight = normal(6, 90), normal(6, 40, seed=1), normal(40, seed=2)
    x = wide[:, 3:43].requires_grad_()
    y, total = kernels.add_rms_norm(x, residual, weight)
    assert torch.equal(total, x + residual)
    torch.testing.assert_close(y, reference_rms_norm(x + residual, weight, 1e-6, 0.0, True)[0])
    (grad,) = torch.autograd.grad(y.sum() + total.sum(), x)
    plain = reference_rms_norm_backward(
        torch.ones_like(y), x + residual, weight, _rstd(x + residual), 0.0
    )[0]
    torch.testing.assert_close(grad, plain + 1, rtol=1e-4, atol=1e-5)


def _rstd(x):
    return torch.rsqrt(x.pow(2).mean(-1) + 1e-6)


@settings(max_examples=8, deadline=None)
@given(rows=st.integers(1, 9), width=st.integers(2, 300), dtype=DTYPES, bias=st.booleans())
def test_layer_norm(rows, width, dtype, bias):
    x, weight = normal(rows, width, dtype=dtype), normal(width, dtype=dtype, seed=1)
    shift = normal(width, dtype=dtype, seed=3) if bias else None
    y, mean, rstd = layer_forward(x, weight, shift, 1e-5)
    assert_near((y,), reference_layer_norm(x, weight, shift, 1e-5)[:1], dtype, 2)
    grad = normal(rows, width, dtype=dtype, seed=2)
    ours = layer_backward(grad, x, weight, mean, rstd)
    assert_near(ours, reference_layer_norm_backward(grad, x, weight, mean, rstd), dtype, 10)


@settings(max_examples=10, deadline=None)
@given(
    tokens=st.integers(1, 4),
    q_heads=st.integers(1, 20),
    k_heads=st.integers(1, 3),
    half=st.integers(1, 9),
    rest=st.integers(0, 5),
    dtype=DTYPES,
    backward=st.booleans(),
    shared=st.booleans(),
    wide=st.booleans(),
)
def test_rope(tokens, q_heads, k_heads, half, rest, dtype, backward, shared, wide):
    """wide: the tables are float32 whatever is rotated, as in the Qwen vision towers."""
    width = 2 * half + rest
    q = normal(2, tokens, q_heads, width, dtype=dtype).transpose(1, 2)
    k = normal(2, k_heads, tokens, width, dtype=dtype, seed=1)
    kind = torch.float32 if wide else dtype
    cos, sin = (normal(1 if shared else 2, tokens, 2 * half, seed=s).to(kind) for s in (2, 3))
    turn = reference_rope_backward if backward else reference_rope
    exact = [turn(one, cos, sin).to(dtype) for one in (q, k)]
    assert_near(rotate(q, k, cos, sin, backward), exact, dtype, 2)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 4),
    width=st.integers(1, 200),
    dtype=DTYPES,
    kind=st.sampled_from(KINDS),
)
def test_glu(rows, width, dtype, kind):
    gate, up = (normal(rows, 2 * width, dtype=dtype) * 3).chunk(2, dim=-1)
    assert_near((apply_glu(gate, up, kind),), (reference_glu(gate, up, kind),), dtype, 4)
    grad = normal(rows, width, dtype=dtype, seed=1)
    ours = glu_backward(grad, gate, up, kind)
    assert_near(ours, reference_glu_backward(grad, gate, up, kind), dtype, 4)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 5),
    vocabulary=st.integers(2, 20000),
    dtype=DTYPES,
    how=st.sampled_from(
        [
            kernels.LossOptions(),
            kernels.LossOptions(label_smoothing=0.1, z_loss=0.01),
            kernels.LossOptions(softcap=5.0, logit_scale=0.5),
        ]
    ),
)
def test_cross_entropy(rows, vocabulary, dtype, how):
    logits = normal(rows, vocabulary, dtype=dtype) * 4
    labels = torch.randint(0, vocabulary, (rows,), generator=torch.Generator().manual_seed(rows))
    labels[0] = -100
    loss, lse = ce_forward(logits, labels, *how.flat())
    expected_loss, expected_lse = reference_cross_entropy(logits, labels, how)
    torch.testing.assert_close(loss, expected_loss, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(lse, expected_lse, rtol=2e-5, atol=2e-5)
    grad = normal(rows, seed=1)
    ours = ce_backward(grad, logits, labels, lse, *how.flat())
    reference = reference_cross_entropy_backward(grad, logits, labels, lse, how)
    assert_near((ours,), (reference,), dtype, 2)


def test_a_label_outside_the_vocabulary_makes_the_loss_nan():
    labels = torch.tensor([1, 300, -100, -7])
    loss, _ = ce_forward(normal(4, 300), labels, *kernels.LossOptions().flat())
    assert loss.isnan().tolist() == [False, True, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_loss_writes_gradients_over_the_logits(dtype):
    hidden, head = normal(5, 16, dtype=dtype).requires_grad_(), normal(300, 16, dtype=dtype, seed=1)
    labels = torch.tensor([1, -100, 299, 0, 7])
    total = kernels.fused_linear_cross_entropy(hidden, head, labels)
    plain = kernels.cross_entropy(hidden @ head.T, labels)
    torch.testing.assert_close(total, plain, rtol=1e-2, atol=1e-2)
    ours, theirs = (torch.autograd.grad(one, hidden)[0] for one in (total, plain))
    assert_near((ours,), (theirs,), dtype, 4)
