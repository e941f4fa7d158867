"""SwiGLU and GeGLU against torch's own activations, both directions."""

import pytest
import torch
from torch.nn import functional

import mdl.kernels as kernels
from mdl.errors import UsageError
from mdl.kernels.ops.glu import apply_glu

REFERENCE = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def inputs(dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    both = (torch.randn(3, 5, 64, generator=make) * 3).to(dtype)
    return both.chunk(2, dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", REFERENCE)
def test_equals_torch(kind, dtype):
    gate, up = inputs(dtype)
    assert torch.equal(apply_glu(gate, up, kind), REFERENCE[kind](gate) * up)


@pytest.mark.parametrize("kind", REFERENCE)
def test_gradients(kind):
    leaves = [[one.clone().requires_grad_() for one in inputs()] for _ in range(2)]
    apply_glu(*leaves[0], kind).square().sum().backward()
    (REFERENCE[kind](leaves[1][0]) * leaves[1][1]).square().sum().backward()
    for ours, theirs in zip(*leaves, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # Dynamo
def test_compiles_without_graph_breaks():
    gate, up = (one.clone().requires_grad_() for one in inputs())
    compiled = torch.compile(
        lambda a, b: kernels.swiglu(a, b).sum() + kernels.geglu(a, b).sum(),
        backend="aot_eager",
        fullgraph=True,
    )
    eager = kernels.swiglu(gate, up).sum() + kernels.geglu(gate, up).sum()
    wanted = torch.autograd.grad(eager, (gate, up))
    for a, b in zip(torch.autograd.grad(compiled(gate, up), (gate, up)), wanted, strict=True):
        assert torch.equal(a, b)


def test_halves_of_two_shapes_are_refused():
    with pytest.raises(UsageError, match="gated unit"):
        kernels.swiglu(torch.ones(2, 4), torch.ones(2, 5))
