"""Cross-entropy, and cross-entropy fused with the output projection, differentiable.

Bytes a token in bfloat16: 6 V (the forward pass reads the logits, the backward pass reads and
writes them). Fused, no tensor of tokens x vocabulary exists: 4 T H V FLOP with a frozen head.
"""

from typing import Any

import torch

from mdl.errors import UsageError
from mdl.kernels.nf4 import blocks_of
from mdl.kernels.ops.loss_options import LossOptions, check_labels
from mdl.kernels.ops.loss_reference import reference_cross_entropy, reference_cross_entropy_backward
from mdl.kernels.runtime import (
    config,
    custom_op,
    interpreting,
    kernel_or_reference,
    launch_kernel,
    scratch,
    stored_dtype,
)

__all__ = ["LossOptions", "cross_entropy", "fused_linear_cross_entropy"]

_REDUCTIONS = ("mean", "sum", "none")
_CHUNK_BYTES = 1 << 27
"""Most bytes of logits that exist at once in the fused loss: 128 MiB."""


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    options: LossOptions | None = None,
    *,
    reduction: str = "mean",
) -> torch.Tensor:
    """Cross-entropy of [T, V] logits and int64 [T] labels, float32.

    Args:
        reduction: `mean` over the labels that are not ignored (NaN if all are, as torch has it),
            `sum`, or `none` ([T]).

    A label outside the vocabulary that is not the ignored one makes its row's loss NaN.

    Raises:
        UsageError: shapes that do not fit, or no such reduction.
    """
    if reduction not in _REDUCTIONS or logits.dim() != 2:
        raise UsageError(
            f"No cross-entropy of {list(logits.shape)} with reduction {reduction!r}.",
            next=f"Give [T, V] logits and one of {', '.join(_REDUCTIONS)}.",
        )
    check_labels(logits.shape[0], labels)
    how = options or LossOptions()
    apply: Any = CrossEntropyFunction.apply
    rows: torch.Tensor = apply(logits, labels, *how.flat())
    if reduction == "none":
        return rows
    total = rows.sum()
    return total if reduction == "sum" else total / (labels != how.ignore_index).sum()


class CrossEntropyFunction(torch.autograd.Function):
    """Saves the logits it was given and one float32 a row."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, *how: Any) -> torch.Tensor:
        loss, lse = ce_forward(logits, labels, *how)
        ctx.save_for_backward(logits, labels, lse)
        ctx.how = how
        result: torch.Tensor = loss
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        logits, labels, lse = ctx.saved_tensors
        grad = ce_backward(grads[0].float(), logits, labels, lse, *ctx.how)
        return (grad, *(None,) * 6)


def fused_linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None = None,
    options: LossOptions | None = None,
    *,
    count: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """Cross-entropy of `hidden @ weight.T + bias`, without ever holding all the logits.

    hidden: [T, H]; weight: [V, H]; labels: int64 [T]; bias: [V]. The gradients are computed with
    the loss, chunk by chunk, only for the inputs that need one; a weight's is summed in float32.

    Args:
        count: what the summed loss is divided by; default the labels that are not ignored.

    Raises:
        UsageError: shapes that do not fit.
    """
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise UsageError(
            f"Hidden {list(hidden.shape)} and head {list(weight.shape)} do not fit.",
            next="Give [T, H] hidden states and a [V, H] weight.",
        )
    check_labels(hidden.shape[0], labels)
    how = options or LossOptions()
    if count is None:
        count = (labels != how.ignore_index).sum()
    share = torch.ones((), device=hidden.device) / count
    apply: Any = FusedLinearCrossEntropyFunction.apply
    result: torch.Tensor = apply(hidden, weight, bias, labels, share, *how.flat())
    return result


class FusedLinearCrossEntropyFunction(torch.autograd.Function):
    """Saves finished gradients; the backward pass only multiplies them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        share: torch.Tensor,
        *how: Any,
    ) -> torch.Tensor:
        needs = [bool(need) for need in ctx.needs_input_grad[:3]]
        loss, *grads = flce(hidden, weight, bias, labels, share, *needs, *how)
        ctx.needs = needs
        ctx.save_for_backward(*grads)
        result: torch.Tensor = loss
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        found = zip(ctx.saved_tensors, ctx.needs, strict=True)
        scaled = [one * grads[0].to(one.dtype) if need else None for one, need in found]
        return (*scaled, *(None,) * 7)


def _forward_fake(
    logits: torch.Tensor, labels: torch.Tensor, *how: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    row = logits.new_empty(logits.shape[0], dtype=torch.float32)
    return row, torch.empty_like(row)


@custom_op("cross_entropy", _forward_fake)
def ce_forward(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int,
    label_smoothing: float,
    softcap: float,
    logit_scale: float,
    z_loss: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and log-sum-exp of each row."""
    how = LossOptions(ignore_index, label_smoothing, softcap, logit_scale, z_loss)
    given = (logits, labels, how)
    return kernel_or_reference(
        "cross_entropy", logits, _launch_forward, reference_cross_entropy, *given
    )


def _launch_forward(
    logits: torch.Tensor, labels: torch.Tensor, how: LossOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    from mdl.kernels.ops.loss_kernels import cross_entropy_forward_kernel

    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    loss = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    lse = torch.empty_like(loss)
    chosen = config("cross_entropy", logits)
    launch_kernel(
        cross_entropy_forward_kernel,
        (logits.shape[0],),
        chosen,
        logits,
        labels.contiguous(),
        loss,
        lse,
        logits.shape[1],
        logits.stride(0),
        how.ignore_index,
        **_constants(how),
        BLOCK=chosen["BLOCK"],
    )
    return loss, lse


def _backward_fake(grad: torch.Tensor, logits: torch.Tensor, *rest: Any) -> torch.Tensor:
    return logits.new_empty(logits.shape)


@custom_op("cross_entropy_backward", _backward_fake)
def ce_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    lse: torch.Tensor,
    ignore_index: int,
    label_smoothing: float,
    softcap: float,
    logit_scale: float,
    z_loss: float,
) -> torch.Tensor:
    """The gradient of the logits."""
    how = LossOptions(ignore_index, label_smoothing, softcap, logit_scale, z_loss)
    given = (grad, logits, labels, lse, how)
    return kernel_or_reference(
        "cross_entropy_backward", logits, _launch_gradient, _reference_gradient, *given
    )


def _reference_gradient(*given: Any) -> torch.Tensor:
    return reference_cross_entropy_backward(*given).contiguous()


def _launch_gradient(
    grad: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    lse: torch.Tensor,
    how: LossOptions,
) -> torch.Tensor:
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    out = torch.empty(logits.shape, dtype=stored_dtype(logits.dtype), device=logits.device)
    return _launch_backward(grad, logits, labels, lse, how, out).to(logits.dtype)


def _launch_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    lse: torch.Tensor,
    how: LossOptions,
    out: torch.Tensor,
) -> torch.Tensor:
    from mdl.kernels.ops.loss_kernels import cross_entropy_backward_kernel

    chosen = config("cross_entropy", logits)
    launch_kernel(
        cross_entropy_backward_kernel,
        (logits.shape[0], blocks_of(logits.shape[1], chosen["BLOCK"])),
        chosen,
        grad.contiguous(),
        logits,
        labels.contiguous(),
        lse,
        out,
        logits.shape[1],
        logits.stride(0),
        out.stride(0),
        how.ignore_index,
        **_constants(how),
        BLOCK=chosen["BLOCK"],
    )
    return out


def _constants(how: LossOptions) -> dict[str, float]:
    return {
        "SMOOTHING": how.label_smoothing,
        "Z_LOSS": how.z_loss,
        "SCALE": how.logit_scale,
        "CAP": how.softcap,
    }


def _flce_fake(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    share: torch.Tensor,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
    *how: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        hidden.new_empty((), dtype=torch.float32),
        hidden.new_empty(hidden.shape if need_hidden else 0),
        weight.new_empty(weight.shape if need_weight else 0),
        weight.new_empty(weight.shape[0] if need_bias else 0),
    )


def chunk_rows(tokens: int, vocabulary: int, itemsize: int) -> int:
    """Tokens whose logits fit the budget: a multiple of 128 where there are so many, at least 1."""
    rows = max(1, _CHUNK_BYTES // max(1, vocabulary * itemsize))
    rows = rows // 128 * 128 if rows >= 128 else rows
    return max(1, min(tokens, rows))


@custom_op("fused_linear_cross_entropy", _flce_fake)
def flce(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    share: torch.Tensor,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
    ignore_index: int,
    label_smoothing: float,
    softcap: float,
    logit_scale: float,
    z_loss: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The summed loss times `share`, and the gradients of hidden, weight and bias (or empty)."""
    how = LossOptions(ignore_index, label_smoothing, softcap, logit_scale, z_loss)
    losses = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    of_hidden = torch.empty_like(hidden) if need_hidden else hidden.new_empty(0)
    wide = torch.float32
    of_weight = torch.zeros(weight.shape if need_weight else 0, dtype=wide, device=weight.device)
    of_bias = torch.zeros(weight.shape[0] if need_bias else 0, dtype=wide, device=weight.device)
    step = chunk_rows(hidden.shape[0], weight.shape[0], hidden.element_size())
    for start in range(0, hidden.shape[0], step):
        part = slice(start, start + step)
        logits = _chunk_logits(hidden[part], weight, bias)
        loss, lse = ce_forward(logits, labels[part], *how.flat())
        losses[part] = loss
        if not (need_hidden or need_weight or need_bias):
            continue
        grad = _chunk_grad(share, logits, labels[part], lse, how)
        if need_hidden:
            torch.matmul(grad, weight, out=of_hidden[part])
        if need_weight:
            of_weight += (grad.T @ hidden[part]).float()
        if need_bias:
            of_bias += grad.sum(0, dtype=wide)
    return losses.sum() * share, of_hidden, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


def _chunk_logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    logits = scratch.take((hidden.shape[0], weight.shape[0]), hidden.dtype, hidden.device)
    if bias is None:
        return torch.matmul(hidden, weight.T, out=logits)
    return torch.addmm(bias.to(hidden.dtype), hidden, weight.T, out=logits)


def _chunk_grad(
    share: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    lse: torch.Tensor,
    how: LossOptions,
) -> torch.Tensor:
    """The gradient of a chunk's logits, over the logits themselves where the kernel can."""
    given = (share.expand(logits.shape[0]).contiguous(), logits, labels, lse, how)
    if interpreting() and logits.dtype == torch.bfloat16:
        return _reference_in_place(*given)
    return kernel_or_reference(
        "cross_entropy_backward", logits, _launch_in_place, _reference_in_place, *given
    )


def _reference_in_place(grad: torch.Tensor, logits: torch.Tensor, *rest: Any) -> torch.Tensor:
    return logits.copy_(reference_cross_entropy_backward(grad, logits, *rest))


def _launch_in_place(
    grad: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    lse: torch.Tensor,
    how: LossOptions,
) -> torch.Tensor:
    return _launch_backward(grad, logits, labels, lse, how, logits)
