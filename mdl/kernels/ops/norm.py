"""RMSNorm, RMSNorm with a residual add, and LayerNorm, differentiable.

Bytes a row must move in bfloat16: 4 H forward (read x, write y), 8 H with the residual add.
"""

from typing import Any

import torch

from mdl.kernels.nf4 import blocks_of
from mdl.kernels.ops.norm_reference import (
    reference_layer_norm,
    reference_layer_norm_backward,
    reference_rms_norm,
    reference_rms_norm_backward,
)
from mdl.kernels.runtime import (
    Config,
    config,
    custom_op,
    interpreting,
    kernel_or_reference,
    launch_kernel,
    row_config,
    stored_dtype,
)

__all__ = ["add_rms_norm", "layer_norm", "rms_norm"]


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float = 1e-6,
    *,
    offset: float = 0.0,
    cast: bool = True,
) -> torch.Tensor:
    """`x / sqrt(mean(x**2) + eps) * (weight + offset)` over the last dimension, in float32 inside.

    x: [..., H]; weight: [H]. Source: arXiv:1910.07467.

    Args:
        offset: 1.0 for Gemma, whose stored weight is the difference from one.
        cast: round to x's dtype before the weight (Llama); otherwise after it (Gemma).
    """
    apply: Any = RMSNormFunction.apply
    result: torch.Tensor = apply(x, None, weight, eps, offset, cast)[0]
    return result


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float = 1e-6,
    *,
    offset: float = 0.0,
    cast: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rms_norm(x + residual)` and `x + residual`, reading both once.

    x, residual: [..., H]. Of different shapes or dtypes they are added first, as torch does it.
    """
    if x.dtype != residual.dtype or x.shape != residual.shape:
        total = x + residual
        return rms_norm(total, weight, eps, offset=offset, cast=cast), total
    apply: Any = RMSNormFunction.apply
    y, total = apply(x, residual, weight, eps, offset, cast)
    return y, total


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """LayerNorm over the last dimension. x: [..., H]; weight, bias: [H]."""
    apply: Any = LayerNormFunction.apply
    result: torch.Tensor = apply(x, weight, bias, eps)
    return result


class RMSNormFunction(torch.autograd.Function):
    """Saves the normalised input and one float32 a row."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor,
        eps: float,
        offset: float,
        cast: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, total, rstd = rms_forward(x, residual, weight, eps, offset, cast)
        kept = x if residual is None else total
        ctx.save_for_backward(kept, weight, rstd)
        ctx.offset, ctx.has_residual = offset, residual is not None
        if residual is None:
            ctx.mark_non_differentiable(total)
        return y, total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        x, weight, rstd = ctx.saved_tensors
        grad_sum = grads[1] if ctx.has_residual else None
        grad_x, grad_weight = rms_backward(grads[0], grad_sum, x, weight, rstd, ctx.offset)
        grad_residual = grad_x if ctx.has_residual else None
        return grad_x, grad_residual, grad_weight.to(weight.dtype), None, None, None


class LayerNormFunction(torch.autograd.Function):
    """Saves the input and two float32 a row."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
    ) -> torch.Tensor:
        y, mean, rstd = layer_forward(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.has_bias = bias is not None
        result: torch.Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = layer_backward(grads[0], x, weight, mean, rstd)
        bias = grad_bias.to(weight.dtype) if ctx.has_bias else None
        return grad_x, grad_weight.to(weight.dtype), bias, None


def _rms_forward_fake(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    offset: float,
    cast: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dtype = torch.promote_types(x.dtype, weight.dtype) if cast else x.dtype
    total = x.new_empty(0) if residual is None else x.new_empty(x.shape)
    return (
        x.new_empty(x.shape, dtype=dtype),
        total,
        x.new_empty(x.shape[:-1], dtype=torch.float32),
    )


@custom_op("rms_norm", _rms_forward_fake)
def rms_forward(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    offset: float,
    cast: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, x + residual (empty without one), rstd."""
    given = (x, residual, weight, eps, offset, cast)
    return kernel_or_reference("rms_norm", x, _rms_launch, _rms_reference, *given)


def _rms_launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    offset: float,
    cast: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dtype = torch.promote_types(x.dtype, weight.dtype) if cast else x.dtype
    y, total, _, rstd = _launch_forward(
        x, residual, weight, None, eps, (False, offset, cast, dtype)
    )
    return y, total, rstd


def _rms_reference(
    x: torch.Tensor, residual: torch.Tensor | None, *how: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    total = x.new_empty(0) if residual is None else x + residual
    y, rstd = reference_rms_norm(x if residual is None else total, *how)
    return y.contiguous(), total, rstd


def _rms_backward_fake(
    grad: torch.Tensor, grad_sum: torch.Tensor | None, x: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[-1], dtype=torch.float32)


@custom_op("rms_norm_backward", _rms_backward_fake)
def rms_backward(
    grad: torch.Tensor,
    grad_sum: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    offset: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x and of the weight (float32)."""
    given = (grad, grad_sum, x, weight, rstd, offset)
    return kernel_or_reference(
        "rms_norm_backward", x, _rms_backward_launch, _rms_backward_reference, *given
    )


def _rms_backward_launch(
    grad: torch.Tensor,
    grad_sum: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    offset: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    grad_x, grad_weight, _ = _launch_backward(grad, grad_sum, x, weight, None, rstd, offset)
    return grad_x, grad_weight


def _rms_backward_reference(
    grad: torch.Tensor, grad_sum: torch.Tensor | None, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    grad_x, grad_weight = reference_rms_norm_backward(grad, *rest)
    return (grad_x if grad_sum is None else grad_x + grad_sum).contiguous(), grad_weight


def _layer_forward_fake(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    row = x.new_empty(x.shape[:-1], dtype=torch.float32)
    return x.new_empty(x.shape), row, torch.empty_like(row)


@custom_op("layer_norm", _layer_forward_fake)
def layer_forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, mean, rstd."""
    given = (x, weight, bias, eps)
    return kernel_or_reference("layer_norm", x, _layer_launch, reference_layer_norm, *given)


def _layer_launch(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y, _, mean, rstd = _launch_forward(x, None, weight, bias, eps, (True, 0.0, False, x.dtype))
    return y, mean, rstd


def _layer_backward_fake(
    grad: torch.Tensor, x: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    column = x.new_empty(x.shape[-1], dtype=torch.float32)
    return x.new_empty(x.shape), column, torch.empty_like(column)


@custom_op("layer_norm_backward", _layer_backward_fake)
def layer_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, of the weight and of the bias (float32)."""
    given = (grad, x, weight, mean, rstd)
    return kernel_or_reference(
        "layer_norm_backward", x, _layer_backward_launch, _layer_backward_reference, *given
    )


def _layer_backward_launch(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _launch_backward(grad, None, x, weight, mean, rstd, 0.0)


def _layer_backward_reference(*given: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grad_x, grad_weight, grad_bias = reference_layer_norm_backward(*given)
    return grad_x.contiguous(), grad_weight, grad_bias


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """[..., H] as [rows, H] with neighbouring columns; copied only if it must be."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def _tile(operation: str, x: torch.Tensor) -> tuple[Config, int, int]:
    chosen, block = config(operation, x), 1 << (x.shape[-1] - 1).bit_length()
    return row_config(chosen, block), max(1, chosen["TILE"] // block), block


def _launch_forward(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    how: tuple[bool, float, bool, torch.dtype],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    from mdl.kernels.ops.norm_kernels import norm_forward_kernel

    center, offset, cast, dtype = how
    flat = rows_of(x)
    other = flat if residual is None else rows_of(residual)
    chosen, rows, block = _tile("norm_forward", x)
    y = torch.empty(x.shape, dtype=stored_dtype(dtype), device=x.device)
    total = torch.empty(
        x.shape if residual is not None else 0, dtype=stored_dtype(x.dtype), device=x.device
    )
    mean = torch.empty(x.shape[:-1] if center else 0, dtype=torch.float32, device=x.device)
    rstd = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    launch_kernel(
        norm_forward_kernel,
        (blocks_of(flat.shape[0], rows),),
        chosen,
        flat,
        other,
        weight,
        weight if bias is None else bias,
        y,
        total,
        mean,
        rstd,
        *flat.shape,
        flat.stride(0),
        other.stride(0),
        eps,
        CENTER=center,
        RESIDUAL=residual is not None,
        BIAS=bias is not None,
        OFFSET=offset,
        # The interpreter truncates to bfloat16; there the one rounding at the end is kept.
        CAST=cast and not (interpreting() and x.dtype == torch.bfloat16),
        ROWS=rows,
        BLOCK=block,
    )
    return y.to(dtype), total.to(x.dtype), mean, rstd


def _launch_backward(
    grad: torch.Tensor,
    grad_sum: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor | None,
    rstd: torch.Tensor,
    offset: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from mdl.kernels.ops.norm_kernels import norm_backward_kernel

    flat, upper = rows_of(x), grad.contiguous()
    chosen, rows, block = _tile("norm_backward", x)
    programs = min(chosen["PROGRAMS"], blocks_of(flat.shape[0], rows))
    partial = torch.empty((2, programs, x.shape[-1]), dtype=torch.float32, device=x.device)
    grad_x = torch.empty(x.shape, dtype=stored_dtype(x.dtype), device=x.device)
    launch_kernel(
        norm_backward_kernel,
        (programs,),
        chosen,
        upper,
        upper if grad_sum is None else grad_sum.contiguous(),
        flat,
        weight,
        rstd if mean is None else mean,
        rstd,
        grad_x,
        partial[0],
        partial[1],
        *flat.shape,
        flat.stride(0),
        CENTER=mean is not None,
        RESIDUAL=grad_sum is not None,
        BIAS=mean is not None,
        OFFSET=offset,
        ROWS=rows,
        BLOCK=block,
    )
    sums = partial.sum(1) if mean is not None else partial[:1].sum(1)
    return grad_x.to(x.dtype), sums[0], sums[-1].clone()
