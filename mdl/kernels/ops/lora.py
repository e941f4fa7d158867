"""A 4-bit linear layer with a LoRA branch: `x @ W.T + bias + scaling * (dropped @ A.T) @ B.T`.

With many rows the branch is written first and the base is added to it by the matrix product's own
accumulation, forward and backward: the product that is bound by arithmetic reads the other's result
along with its work, and the base is not rounded before the branch is in. With few rows the branch
is added.
Source: arXiv:2106.09685, 2305.14314.
"""

from dataclasses import dataclass
from typing import Any

import torch

from mdl.errors import UsageError
from mdl.kernels.nf4 import Packed4bit, check_packed
from mdl.kernels.ops.linear4bit import HEIGHTS, add_product_4bit, forward_4bit, input_grad_4bit

__all__ = ["Lora", "lora_linear_4bit"]


@dataclass(frozen=True, eq=False)
class Lora:
    """One adapter. a: [r, K]; b: [N, r]; both may be of a wider dtype than the layer's input."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float = 1.0


def lora_linear_4bit(
    x: torch.Tensor,
    weight: Packed4bit,
    lora: Lora,
    bias: torch.Tensor | None = None,
    *,
    dropped: torch.Tensor | None = None,
) -> torch.Tensor:
    """The layer's result [..., N] in x's dtype, differentiable in x, dropped, a, b and bias.

    Args:
        dropped: the input of the branch after dropout; default x itself.

    Raises:
        UsageError: the shapes do not fit.
    """
    check_packed(weight)
    n, k = weight.shape if len(weight.shape) == 2 else (0, 0)
    rank = lora.a.shape[0]
    if x.shape[-1] != k or lora.a.shape != (rank, k) or lora.b.shape != (n, rank):
        raise UsageError(
            f"A {list(lora.a.shape)}, B {list(lora.b.shape)} do not fit W {list(weight.shape)}.",
            why="For a weight [N, K], A is [r, K], B is [N, r] and the input ends in K.",
            next="Give the adapter that was made for this layer.",
        )
    apply: Any = LoraFunction.apply
    result: torch.Tensor = apply(
        x, dropped, lora.a, lora.b, bias, float(lora.scaling), *weight.flat()
    )
    return result


class LoraFunction(torch.autograd.Function):
    """Saves the branch's input, its rank-wide product, and references to the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        bias: torch.Tensor | None,
        scaling: float,
        *flat: Any,
    ) -> torch.Tensor:
        source = x if dropped is None else dropped
        middle = source.reshape(-1, source.shape[-1]) @ a.to(x.dtype).T
        up = b.to(x.dtype).T
        out: torch.Tensor
        if middle.shape[0] <= HEIGHTS[-1]:  # where the base has kernels that write their result
            out = forward_4bit(x, bias, False, *flat)
            out.view(-1, out.shape[-1]).addmm_(middle, up, alpha=scaling)
        else:
            branch = middle * scaling
            rows = branch @ up if bias is None else torch.addmm(bias.to(x.dtype), branch, up)
            add_product_4bit(rows, x.reshape(-1, x.shape[-1]), True, *flat)
            out = rows.view(*x.shape[:-1], rows.shape[-1])
        ctx.save_for_backward(source, middle, a, b, *flat[:5])
        ctx.form, ctx.scaling, ctx.has_dropped = flat[5:], scaling, dropped is not None
        ctx.bias_dtype = None if bias is None else bias.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        source, middle, a, b, *flat = ctx.saved_tensors
        need_x, need_dropped, need_a, need_b, need_bias = ctx.needs_input_grad[:5]
        grad = grads[0]
        rows = grad.reshape(-1, grad.shape[-1])
        flat_source = source.reshape(-1, source.shape[-1])
        of_middle = (rows @ b.to(rows.dtype)) * ctx.scaling
        of_a = (of_middle.T @ flat_source).to(a.dtype) if need_a else None
        of_b = ((rows.T @ middle) * ctx.scaling).to(b.dtype) if need_b else None
        of_bias = rows.sum(0, dtype=ctx.bias_dtype) if need_bias else None
        of_x = of_dropped = None
        if need_x and ctx.has_dropped:
            of_x = input_grad_4bit(grad, *flat, *ctx.form)
        elif need_x:
            of_rows = of_middle @ a.to(rows.dtype)
            add_product_4bit(of_rows, rows, False, *flat, *ctx.form)
            of_x = of_rows.view(source.shape)
        if need_dropped:
            of_dropped = (of_middle @ a.to(rows.dtype)).view(source.shape)
        return (of_x, of_dropped, of_a, of_b, of_bias, *(None,) * 10)
