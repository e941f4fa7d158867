"""RMSNorm and LayerNorm in plain torch, both directions: what is right.

The forward passes are the operations transformers' own modules run, in their order, so a model's
numbers stay bit-equal. The backward formulas follow from y = x * rstd * w with
rstd = (mean(x**2) + eps) ** -0.5.
"""

import torch


def reference_rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float, cast: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """y [..., H] and rstd float32 [...]."""
    wide = x.float()
    rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    scaled = wide * rstd
    if cast:
        factor = weight if offset == 0.0 else weight + offset
        return factor * scaled.to(x.dtype), rstd.squeeze(-1)
    return (scaled * (offset + weight.float())).to(x.dtype), rstd.squeeze(-1)


def reference_rms_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, rstd: torch.Tensor, offset: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x (in x's dtype) and of the weight (float32 [H])."""
    wide, upper = x.float() * rstd.unsqueeze(-1), grad.float()
    inner = upper * (weight.float() + offset)
    grad_x = (inner - wide * (inner * wide).mean(-1, keepdim=True)) * rstd.unsqueeze(-1)
    return grad_x.to(x.dtype), (upper * wide).reshape(-1, x.shape[-1]).sum(0)


def reference_layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y [..., H], mean and rstd float32 [...]."""
    y, mean, rstd = torch.native_layer_norm(x, [x.shape[-1]], weight, bias, eps)
    return y, mean.float().squeeze(-1), rstd.float().squeeze(-1)


def reference_layer_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x (in x's dtype), of the weight and of the bias (float32 [H])."""
    wide = (x.float() - mean.unsqueeze(-1)) * rstd.unsqueeze(-1)
    upper = grad.float()
    inner = upper * weight.float()
    centred = inner - inner.mean(-1, keepdim=True)
    grad_x = (centred - wide * (inner * wide).mean(-1, keepdim=True)) * rstd.unsqueeze(-1)
    flat = upper.reshape(-1, x.shape[-1])
    return grad_x.to(x.dtype), (flat * wide.reshape(flat.shape)).sum(0), flat.sum(0)
