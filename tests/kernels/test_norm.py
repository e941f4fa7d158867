"""RMSNorm and LayerNorm: the model families' own numbers, and gradients against autograd."""

import pytest
import torch
from torch.nn import functional

import mdl.kernels as kernels

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bit_equal_to_the_family(family, dtype):
    models = pytest.importorskip(f"transformers.models.{family}.modeling_{family}")
    gemma = family == "gemma2"
    theirs = (models.Gemma2RMSNorm if gemma else models.LlamaRMSNorm)(48, eps=1e-5).to(dtype)
    theirs.weight.data = normal(48, dtype=dtype)
    x = normal(3, 5, 48, dtype=dtype, seed=1)
    ours = kernels.rms_norm(x, theirs.weight, 1e-5, offset=float(gemma), cast=not gemma)
    assert torch.equal(ours, theirs(x))


def gradients(function, *inputs):
    """The outputs' sum of squares, differentiated."""
    leaves = [one.clone().requires_grad_() for one in inputs]
    made = function(*leaves)
    made = made if isinstance(made, tuple) else (made,)
    torch.stack([one.square().sum() for one in made]).sum().backward()
    return [one.grad for one in leaves]


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_gradients(offset):
    def reference(x, weight):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return x * scale * (weight + offset)

    x, weight = normal(4, 3, 40), normal(40, seed=1)
    ours = gradients(lambda x, w: kernels.rms_norm(x, w, offset=offset), x, weight)
    for one, other in zip(ours, gradients(reference, x, weight), strict=True):
        torch.testing.assert_close(one, other)


def test_add_rms_norm_gradients_reach_both_summands():
    def reference(x, residual, weight):
        total = x + residual
        return total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6) * weight, total

    inputs = normal(6, 40), normal(6, 40, seed=1), normal(40, seed=2)
    for one, other in zip(
        gradients(kernels.add_rms_norm, *inputs), gradients(reference, *inputs), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_gradients(bias):
    inputs = [normal(6, 40), normal(40, seed=1), *([normal(40, seed=2)] if bias else [])]

    def reference(x, weight, bias=None):
        return functional.layer_norm(x, (40,), weight, bias)

    for one, other in zip(
        gradients(kernels.layer_norm, *inputs), gradients(reference, *inputs), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # Dynamo
def test_compiles_without_graph_breaks():
    weight = normal(40).requires_grad_()

    def step(x):
        return kernels.layer_norm(kernels.rms_norm(x, weight), weight).square().sum()

    x = normal(5, 40).requires_grad_()
    eager = torch.autograd.grad(step(x), (x, weight))
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for one, other in zip(torch.autograd.grad(compiled(x), (x, weight)), eager, strict=True):
        assert torch.equal(one, other)


def test_empty_rows():
    x = torch.empty(0, 40, requires_grad=True)
    y = kernels.rms_norm(x, torch.ones(40))
    y.sum().backward()
    assert x.grad.shape == (0, 40)
