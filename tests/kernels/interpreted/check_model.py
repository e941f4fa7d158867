"""Whole tiny models through the Triton kernels in the interpreter, against transformers alone."""

import pytest
import torch

import mdl.kernels as kernels
from tests.kernels.models import logits, quantized, step, tiny, with_lora

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")


def assert_near(one, other, near=2e-4):
    torch.testing.assert_close(one, other, rtol=near, atol=near)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_logits_loss_and_gradients(family):
    plain, fast = (tiny(family, num_hidden_layers=1) for _ in range(2))
    kernels.apply(fast)
    assert_near(logits(fast), logits(plain))
    ours, theirs = step(fast), step(plain)
    assert_near(ours[0], theirs[0])
    for name, grad in ours[1].items():
        assert_near(grad, theirs[1][name], 1e-3)


def test_four_bits_with_lora():
    plain, fast = (with_lora(quantized(tiny("llama", num_hidden_layers=1))) for _ in range(2))
    kernels.apply(fast)
    ours, theirs = step(fast), step(plain)
    assert_near(ours[0], theirs[0])
    for name, grad in ours[1].items():
        assert_near(grad, theirs[1][name], 1e-3)
