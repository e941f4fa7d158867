"""Cross-entropy, plain and fused with the head, against torch and autograd."""

import pytest
import torch
from torch.nn import functional

import mdl.kernels as kernels
from mdl.errors import UsageError
from mdl.kernels.ops import loss

CASES = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "capped": {"softcap": 5.0},
    "scaled": {"logit_scale": 0.25},
    "z": {"z_loss": 0.01},
    "all": {"label_smoothing": 0.1, "softcap": 5.0, "logit_scale": 0.5, "z_loss": 0.01},
}


def problem(tokens=11, vocabulary=37, width=24):
    make = torch.Generator().manual_seed(0)
    labels = torch.randint(0, vocabulary, (tokens,), generator=make)
    labels[::4] = -100
    hidden = torch.randn(tokens, width, generator=make)
    head = torch.randn(vocabulary, width, generator=make)
    return hidden, head, labels


def reference(logits, labels, *, softcap=0.0, logit_scale=1.0, label_smoothing=0.0, z_loss=0.0):
    z = logits * logit_scale
    z = softcap * torch.tanh(z / softcap) if softcap else z
    total = functional.cross_entropy(z, labels, label_smoothing=label_smoothing)
    kept = labels != -100
    return total + z_loss * (torch.logsumexp(z, -1)[kept] ** 2).mean()


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient(case):
    hidden, head, labels = problem()
    logits = (hidden @ head.T).requires_grad_()
    ours = kernels.cross_entropy(logits, labels, kernels.LossOptions(**CASES[case]))
    exact = reference(logits.double(), labels, **CASES[case])
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)
    mine, theirs = (torch.autograd.grad(one, logits)[0] for one in (ours, exact))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("budget", [37 * 4, 1 << 20])
def test_fused_equals_unfused(case, budget, monkeypatch):
    """One token a chunk, and all in one."""
    monkeypatch.setattr(loss, "_CHUNK_BYTES", budget)
    options = kernels.LossOptions(**CASES[case])
    results = []
    for fused in (True, False):
        hidden, head, labels = problem()
        bias = torch.linspace(-1, 1, 37).requires_grad_()
        leaves = [hidden.requires_grad_(), head.requires_grad_(), bias]
        if fused:
            total = kernels.fused_linear_cross_entropy(hidden, head, labels, bias, options)
        else:
            total = kernels.cross_entropy(functional.linear(hidden, head, bias), labels, options)
        (total * 3).backward()
        results.append([total, *(one.grad for one in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_frozen_head_gets_no_gradient_and_no_buffer():
    hidden, head, labels = problem()
    total = kernels.fused_linear_cross_entropy(hidden.requires_grad_(), head, labels)
    assert [one.numel() for one in total.grad_fn.saved_tensors] == [hidden.numel(), 0, 0]
    total.backward()
    assert head.grad is None


def test_no_tensor_of_tokens_by_vocabulary(monkeypatch):
    monkeypatch.setattr(loss, "_CHUNK_BYTES", 4 * 37 * 4)
    loss.scratch.clear()
    hidden, head, labels = problem(tokens=40)
    kernels.fused_linear_cross_entropy(hidden.requires_grad_(), head, labels)
    assert max(one.numel() for one in loss.scratch._buffers.values()) == 4 * 37


@pytest.mark.parametrize("reduction", ["sum", "none", "mean"])
def test_reductions(reduction):
    hidden, head, labels = problem()
    logits = hidden @ head.T
    ours = kernels.cross_entropy(logits, labels, reduction=reduction)
    torch.testing.assert_close(ours, functional.cross_entropy(logits, labels, reduction=reduction))


def test_count_divides_the_sum():
    hidden, head, labels = problem()
    total = kernels.fused_linear_cross_entropy(hidden, head, labels, count=torch.tensor(4))
    expected = functional.cross_entropy(hidden @ head.T, labels, reduction="sum") / 4
    torch.testing.assert_close(total, expected)


def test_all_labels_ignored():
    """Mean of nothing is NaN, as torch has it; the sum is zero, and so is its gradient."""
    hidden, head, labels = problem()
    labels[:] = -100
    logits = (hidden @ head.T).requires_grad_()
    assert kernels.cross_entropy(logits, labels).isnan()
    total = kernels.cross_entropy(logits, labels, reduction="sum")
    (grad,) = torch.autograd.grad(total, logits)
    assert total == 0
    assert not grad.any()


@pytest.mark.parametrize("label", [37, -1])
def test_a_label_outside_the_vocabulary_makes_the_loss_nan(label):
    hidden, head, labels = problem()
    labels[1] = label
    found = kernels.cross_entropy(hidden @ head.T, labels, reduction="none")
    assert found.isnan().nonzero().flatten().tolist() == [1]


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # Dynamo
def test_compiles_without_graph_breaks():
    hidden, head, labels = problem()
    hidden.requires_grad_()

    def step(hidden):
        fused = kernels.fused_linear_cross_entropy(hidden, head, labels)
        return fused + kernels.cross_entropy(hidden @ head.T, labels)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    mine, eager = (torch.autograd.grad(one(hidden), hidden)[0] for one in (compiled, step))
    torch.testing.assert_close(mine, eager)


def test_bad_options_and_labels_are_refused():
    with pytest.raises(UsageError, match="label_smoothing"):
        kernels.LossOptions(label_smoothing=1.5)
    with pytest.raises(UsageError, match="Labels"):
        kernels.cross_entropy(torch.ones(3, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UsageError, match="reduction"):
        kernels.cross_entropy(torch.ones(3, 4), torch.zeros(3, dtype=torch.int64), reduction="x")


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "rows"), [(8192, 128256, 512), (10, 128256, 10), (8192, 10**9, 1)]
)
def test_tokens_a_chunk(tokens, vocabulary, rows):
    assert loss.chunk_rows(tokens, vocabulary, 2) == rows
