"""No rows at all, NaN and infinity: every operation, both directions.

`test_interpreter.py` runs this file once more, through the Triton kernels.
"""

import pytest
import torch
from torch.nn import functional

import mdl.kernels as kernels
from tests.kernels.weights import packed_weight

WIDTH = 64


def fixed(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHT, BIAS, OTHER = fixed(WIDTH), fixed(WIDTH, seed=2), fixed(4, WIDTH, seed=3)
PACKED = packed_weight(24, WIDTH)
DENSE = kernels.dequantize_4bit(PACKED)
LORA = kernels.Lora(fixed(8, WIDTH, seed=4), fixed(24, 8, seed=5), 0.5)
ANGLES = torch.linspace(0, 3, 4 * WIDTH // 2).view(4, WIDTH // 2)


def rms(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * WEIGHT


def tables(rows):
    both = torch.cat([ANGLES[:rows], ANGLES[:rows]], dim=-1)[None]
    return both.cos(), both.sin()


def rotated(x):
    q, k = x[None, None], x[None, None]
    return kernels.apply_rope(q, k, *tables(len(x)))[0][0, 0]


def rotated_plainly(x):
    cos, sin = (one[0] for one in tables(len(x)))
    half = WIDTH // 2
    return x * cos + torch.cat([-x[:, half:], x[:, :half]], dim=-1) * sin


def labels(x):
    return torch.arange(len(x)) * 5


# Each takes rows [T, 64] and works on them one by one; beside it, the same in plain torch.
OPERATIONS = {
    "rms_norm": (lambda x: kernels.rms_norm(x, WEIGHT), rms),
    "add_rms_norm": (
        lambda x: torch.cat(kernels.add_rms_norm(x, OTHER[: len(x)], WEIGHT), dim=-1),
        lambda x: torch.cat([rms(x + OTHER[: len(x)]), x + OTHER[: len(x)]], dim=-1),
    ),
    "layer_norm": (
        lambda x: kernels.layer_norm(x, WEIGHT, BIAS),
        lambda x: functional.layer_norm(x, (WIDTH,), WEIGHT, BIAS),
    ),
    "rope": (rotated, rotated_plainly),
    "swiglu": (
        lambda x: kernels.swiglu(x, OTHER[: len(x)]),
        lambda x: functional.silu(x) * OTHER[: len(x)],
    ),
    "geglu": (
        lambda x: kernels.geglu(x, OTHER[: len(x)]),
        lambda x: functional.gelu(x, approximate="tanh") * OTHER[: len(x)],
    ),
    "cross_entropy": (
        lambda x: kernels.cross_entropy(x, labels(x), reduction="none"),
        lambda x: functional.cross_entropy(x, labels(x), reduction="none"),
    ),
    "linear_4bit": (lambda x: kernels.linear_4bit(x, PACKED), lambda x: x @ DENSE.T),
    "lora_4bit": (
        lambda x: kernels.lora_linear_4bit(x, PACKED, LORA),
        lambda x: x @ DENSE.T + 0.5 * (x @ LORA.a.T) @ LORA.b.T,
    ),
}
# numpy, which Triton's interpreter computes with, warns of what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def both_ways(function, x):
    """The result for x and the gradient of its sum."""
    leaf = x.clone().requires_grad_()
    made = function(leaf)
    (grad,) = torch.autograd.grad(made.sum(), leaf)
    return made.detach(), grad


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_rows(name):
    ours, theirs = OPERATIONS[name]
    x = torch.empty(0, WIDTH)
    made, grad = both_ways(ours, x)
    assert made.shape == theirs(x).shape
    assert grad.shape == x.shape


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_special_value_does_to_its_row_what_it_does_in_torch_and_nothing_to_others(name, value):
    ours, theirs = OPERATIONS[name]
    x = fixed(4, WIDTH, seed=7)
    clean = both_ways(ours, x)
    x[1, 3] = value
    found, wanted = both_ways(ours, x), both_ways(theirs, x)
    for one, other, before in zip(found, wanted, clean, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
        for row in (0, 2, 3):
            assert torch.equal(one[row], before[row])


def test_nothing_to_quantize():
    weight = kernels.quantize_4bit(torch.empty(0, 64), nested=False)
    assert weight.packed.numel() == weight.absmax.numel() == 0
    assert kernels.dequantize_4bit(weight).shape == (0, 64)


def test_no_tokens_in_the_fused_loss():
    hidden = torch.empty(0, WIDTH, requires_grad=True)
    total = kernels.fused_linear_cross_entropy(
        hidden, fixed(30, WIDTH), torch.empty(0, dtype=torch.int64), count=1
    )
    total.backward()
    assert total == 0
    assert hidden.grad.shape == (0, WIDTH)
