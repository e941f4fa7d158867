"""Cross-entropy in plain torch, both directions: what is right.

loss = (1 - s) (lse - z_y) + s (lse - mean z) + w lse**2, with z = cap tanh(scale logits / cap),
s the label smoothing and w the z-loss weight (arXiv:1512.00567, arXiv:2204.02311).
"""

import torch

from mdl.kernels.ops.loss_options import LossOptions


def _seen(logits: torch.Tensor, how: LossOptions) -> tuple[torch.Tensor, torch.Tensor | float]:
    z = logits.float()
    if how.logit_scale != 1.0:
        z = z * how.logit_scale
    if how.softcap == 0.0:
        return z, how.logit_scale
    bent = torch.tanh(z / how.softcap)
    return how.softcap * bent, how.logit_scale * (1.0 - bent * bent)


def reference_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, how: LossOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and log-sum-exp of each row: float32 [rows]. logits: [rows, V]; labels: int64 [rows]."""
    z, _ = _seen(logits, how)
    lse = torch.logsumexp(z, dim=-1)
    lse = torch.where(lse == torch.inf, torch.nan, lse)  # as torch's log-softmax has it
    own = z.gather(-1, labels.clamp(0, z.shape[-1] - 1)[:, None]).squeeze(-1)
    # As on a GPU, where raising would cost a wait for the device: the loss says it is no loss.
    own = torch.where((labels >= 0) & (labels < z.shape[-1]), own, torch.nan)
    loss = lse - own
    if how.label_smoothing:
        smooth = lse - z.mean(-1)
        loss = (1.0 - how.label_smoothing) * loss + how.label_smoothing * smooth
    if how.z_loss:
        loss = loss + how.z_loss * lse * lse
    return torch.where(labels == how.ignore_index, 0.0, loss), lse


def reference_cross_entropy_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    lse: torch.Tensor,
    how: LossOptions,
) -> torch.Tensor:
    """The gradient of the logits, in their dtype. grad: float32 [rows]."""
    z, slope = _seen(logits, how)
    share = torch.exp(z - lse[:, None])
    if how.z_loss:
        share = share * (1.0 + 2.0 * how.z_loss * lse)[:, None]
    if how.label_smoothing:
        share -= how.label_smoothing / z.shape[-1]
    place = labels.clamp(0, z.shape[-1] - 1)[:, None]
    share.scatter_add_(-1, place, torch.full_like(share[:, :1], how.label_smoothing - 1.0))
    result = grad[:, None] * share * slope
    return torch.where((labels == how.ignore_index)[:, None], 0.0, result).to(logits.dtype)
