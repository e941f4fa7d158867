"""Rotary embedding: the families' numbers, partial and multi-section, and the rotation back."""

import pytest
import torch

import mdl.kernels as kernels
from mdl.errors import UsageError


def tables(batch, tokens, width, dtype=torch.float32):
    angles = torch.arange(batch * tokens).view(batch, tokens, 1) / (
        10.0 ** (torch.arange(width // 2) / width)
    )
    both = torch.cat([angles, angles], dim=-1)
    return both.cos().to(dtype), both.sin().to(dtype)


def heads(count, dtype=torch.float32, seed=0, *, batch=2, tokens=5, width=16):
    """[batch, count, tokens, width], transposed as a projection leaves it."""
    make = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, count, width, generator=make).to(dtype).transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("family", "width"), [("llama", 16), ("phi3", 8)])
def test_bit_equal_to_the_family(family, width, dtype):
    """Phi-3 rotates the first 8 of 16 elements."""
    models = pytest.importorskip(f"transformers.models.{family}.modeling_{family}")
    q, k, (cos, sin) = heads(4, dtype), heads(2, dtype, 1), tables(2, 5, width, dtype)
    ours = kernels.apply_rope(q, k, cos, sin)
    theirs = models.apply_rotary_pos_emb(q, k, cos, sin)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_tables_shared_by_the_batch():
    q, k, (cos, sin) = heads(4), heads(2, seed=1), tables(1, 5, 16)
    both = cos.expand(2, -1, -1), sin.expand(2, -1, -1)
    for a, b in zip(
        kernels.apply_rope(q, k, cos, sin), kernels.apply_rope(q, k, *both), strict=True
    ):
        assert torch.equal(a, b)


def test_multi_section_takes_each_section_from_its_table():
    """Sections 2, 3, 3 of the 8 frequencies: temporal, height, width (Qwen2-VL)."""
    cos, sin = tables(3, 2 * 5, 16)
    cos, sin = cos.view(3, 2, 5, 16), sin.view(3, 2, 5, 16)
    source = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2] * 2)
    index = source.view(1, 1, 1, 16).expand(1, 2, 5, 16)
    merged = cos.gather(0, index)[0], sin.gather(0, index)[0]
    q, k = heads(4), heads(2, seed=1)
    ours = kernels.apply_rope(q, k, cos, sin, sections=[2, 3, 3])
    for a, b in zip(ours, kernels.apply_rope(q, k, *merged), strict=True):
        assert torch.equal(a, b)


def test_the_gradient_is_the_rotation_back():
    q, k, (cos, sin) = heads(4).requires_grad_(), heads(2, seed=1), tables(2, 5, 8)
    rotated, _ = kernels.apply_rope(q, k, cos, sin)
    (grad,) = torch.autograd.grad(rotated, q, rotated.detach())
    torch.testing.assert_close(grad, q)  # a rotation keeps lengths


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # Dynamo
def test_compiles_without_graph_breaks():
    q, k, (cos, sin) = heads(4).requires_grad_(), heads(2, seed=1), tables(2, 5, 16)

    def step(q):
        a, b = kernels.apply_rope(q, k, cos, sin)
        return a.square().sum() + b.sum() + a.sum()

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert torch.equal(torch.autograd.grad(compiled(q), q)[0], torch.autograd.grad(step(q), q)[0])


def test_tables_of_another_length_are_refused():
    with pytest.raises(UsageError, match="do not fit"):
        kernels.apply_rope(heads(4), heads(2), *tables(2, 4, 16))
