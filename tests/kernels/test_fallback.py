"""A kernel that fails is left out with one warning, and torch computes the same."""

import logging

import pytest
import torch

from mdl import kernels
from mdl.errors import UsageError
from mdl.kernels import ops
from mdl.kernels.nf4 import Packed4bit, reference_dequantize_4bit, reference_quantize_4bit
from mdl.kernels.ops import glu, linear4bit, loss, norm, rope
from mdl.kernels.runtime import failed_kernels, fallback, raising_failures
from tests.kernels import models

FLOAT = torch.float32


class OutOfResources(RuntimeError):
    """As Triton's: a shape needs more shared memory than the card has."""


@pytest.fixture(autouse=True)
def a_gpu_that_works(monkeypatch):
    """Every launch is tried, and torch goes on after one that fails."""
    monkeypatch.setattr(fallback, "_FAILED", {})
    monkeypatch.setattr(fallback, "on_triton", lambda tensor: True)
    monkeypatch.setattr(fallback, "_device_works", lambda tensor: True)


def fails(*args, **constants):
    raise OutOfResources("out of resource: shared memory, Required: 262144, limit: 232448.")


def test_the_reference_runs_and_one_warning_says_why(caplog):
    x = torch.ones(2)
    for _ in range(3):
        made = fallback.kernel_or_reference("glu", x, fails, lambda x: x + 1, x)
        assert torch.equal(made, x + 1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "The kernel glu failed (OutOfResources: out of resource" in record.getMessage()
    assert failed_kernels().keys() == {"glu"}


def test_a_kernel_that_failed_is_not_tried_again():
    calls = []

    def fails_once(x):
        calls.append(x)
        fails()

    x = torch.ones(2)
    for _ in range(3):
        fallback.kernel_or_reference("rope", x, fails_once, torch.neg, x)
    assert len(calls) == 1


def test_a_failure_at_the_third_shape_keeps_the_results_before(monkeypatch):
    """Out of resources at a shape that nobody checked."""

    def launch(x):
        if x.shape[0] == 3:
            fails()
        return x * 2

    made = [
        fallback.kernel_or_reference("rms_norm", one, launch, lambda x: x * 2, one)
        for one in map(torch.ones, (1, 2, 3, 4))
    ]
    assert all(torch.equal(one, torch.full_like(one, 2.0)) for one in made)
    assert failed_kernels().keys() == {"rms_norm"}


@pytest.mark.parametrize("error", [UsageError("no"), torch.OutOfMemoryError("full")])
def test_what_torch_could_not_do_either_is_raised(error):
    def launch(x):
        raise error

    x = torch.ones(2)
    with pytest.raises(type(error)):
        fallback.kernel_or_reference("glu", x, launch, torch.neg, x)
    assert failed_kernels() == {}


def test_a_dead_device_ends_the_run(monkeypatch):
    monkeypatch.setattr(fallback, "_device_works", lambda tensor: False)
    x = torch.ones(2)
    with pytest.raises(OutOfResources):
        fallback.kernel_or_reference("glu", x, fails, torch.neg, x)


def test_checks_and_benchmarks_see_the_failure():
    x = torch.ones(2)
    fallback.kernel_or_reference("glu", x, fails, torch.neg, x)
    with raising_failures(), pytest.raises(OutOfResources):
        fallback.kernel_or_reference("glu", x, fails, torch.neg, x)
    assert torch.equal(fallback.kernel_or_reference("glu", x, fails, torch.neg, x), -x)


@pytest.fixture
def every_launch_fails(monkeypatch):
    """No kernel of ours starts any more."""
    for module in (glu, linear4bit, loss, norm, rope):
        monkeypatch.setattr(module, "launch_kernel", fails)


def test_a_training_step_survives_all_kernels_failing(every_launch_fails, caplog):
    """Forward and backward, and the loss and gradients are those of the references."""
    pytest.importorskip("transformers")
    model = models.tiny("llama")
    loss_before, grads_before = models.step(model)
    kernels.apply(model)
    loss_after, grads_after = models.step(model)
    torch.testing.assert_close(loss_after, loss_before)
    for name, grad in grads_before.items():
        torch.testing.assert_close(grads_after[name], grad, rtol=1e-4, atol=1e-5)
    assert {
        "rms_norm",
        "rms_norm_backward",
        "rope",
        "glu",
        "glu_backward",
    } <= failed_kernels().keys()
    assert len(caplog.records) == len(failed_kernels())


def test_recomputation_may_differ_from_the_forward_it_repeats(monkeypatch):
    """A checkpointed layer computed by the kernel, then again by the reference."""
    started = []

    def only_the_first(*args):
        started.append(1)
        if len(started) > 1:
            fails()
        return norm._rms_reference(*args)

    monkeypatch.setattr(norm, "_rms_launch", only_the_first)
    x, weight = torch.randn(4, 8, requires_grad=True), torch.ones(8)
    made = torch.utils.checkpoint.checkpoint(ops.rms_norm, x, weight, use_reentrant=False)
    monkeypatch.setattr(norm, "_rms_backward_launch", norm._rms_backward_reference)
    made.sum().backward()
    assert len(started) == 2
    assert x.grad is not None


def test_a_product_goes_through_the_dense_weight(every_launch_fails, monkeypatch):
    weight = Packed4bit(*reference_quantize_4bit(torch.randn(1024), 64, "nf4"), (16, 64), FLOAT)
    x = torch.randn(1, 64)
    monkeypatch.setattr(linear4bit, "on_triton", lambda tensor: True)
    expected = x @ reference_dequantize_4bit(weight, torch.empty(16, 64)).T
    torch.testing.assert_close(kernels.linear_4bit(x, weight), expected)
    assert failed_kernels().keys() == {"gemv_4bit", "dequantize_4bit"}
