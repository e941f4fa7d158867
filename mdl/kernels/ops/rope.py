"""Rotary position embedding of Q and K in one launch, differentiable.

Bytes a token must move in bfloat16: 4 D (Hq + Hk). Scaled frequencies (Llama 3, YaRN, ...) are in
the tables transformers computes; the rotation is the same.
"""

from typing import Any

import torch

from mdl.errors import UsageError
from mdl.kernels.ops.rope_reference import merge_sections, reference_rope, reference_rope_backward
from mdl.kernels.runtime import config, custom_op, kernel_or_reference, launch_kernel, stored_dtype

__all__ = ["apply_rope"]


def apply_rope(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    sections: list[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate Q and K by position. Source: arXiv:2104.09864, halves as in GPT-NeoX.

    q: [B, Hq, T, D]; k: [B, Hk, T, D], any strides. cos, sin: [B or 1, T, R]; R < D rotates the
    first R elements only (partial rotary). With `sections` (Qwen2-VL) they are [3, B, T, R].

    Raises:
        UsageError: the shapes do not fit.
    """
    if sections is not None:
        cos = merge_sections(cos, sections)
        sin = merge_sections(sin, sections)
    fits = (
        q.dim() == k.dim() == 4
        and q.shape[0] == k.shape[0]
        and q.shape[2:] == k.shape[2:]
        and cos.shape == sin.shape
        and cos.dim() == 3
        and cos.shape[1] == q.shape[2]
        and cos.shape[0] in (1, q.shape[0])
        and cos.shape[2] <= q.shape[3]
        and cos.shape[2] % 2 == 0
    )
    if not fits:
        raise UsageError(
            f"Q {list(q.shape)}, K {list(k.shape)} and cos {list(cos.shape)} do not fit.",
            why="They must be [B, Hq, T, D], [B, Hk, T, D] and [B or 1, T, R], R even and <= D.",
            next="Put heads before tokens: `x.transpose(1, 2)` does.",
        )
    apply: Any = RopeFunction.apply
    q_out, k_out = apply(q, k, cos, sin)
    return q_out, k_out


class RopeFunction(torch.autograd.Function):
    """Saves only the tables; the gradient is the rotation back."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        q_out, k_out = rotate(q, k, cos, sin, False)
        return q_out, k_out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        grad_q, grad_k = rotate(grads[0], grads[1], cos, sin, True)
        return grad_q, grad_k, None, None


def _empty(x: torch.Tensor) -> torch.Tensor:
    """[B, H, T, D] laid out as [B, T, H, D], which is how the projections before it lie."""
    batch, heads, tokens, width = x.shape
    return x.new_empty((batch, tokens, heads, width)).transpose(1, 2)


def _fake(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, backward: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return _empty(q), _empty(k)


@custom_op("rope", _fake)
def rotate(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, backward: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Q and K rotated, or rotated back."""
    return kernel_or_reference("rope", q, _launch, _reference, q, k, cos, sin, backward)


def _reference(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, backward: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    turn = reference_rope_backward if backward else reference_rope
    return tuple(_empty(x).copy_(turn(x, cos, sin)) for x in (q, k))  # type: ignore[return-value] # two of them


def _launch(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, backward: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    from mdl.kernels.ops.rope_kernels import rope_kernel

    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    cos, sin = cos.contiguous(), sin.contiguous()
    batch, q_heads, tokens, width = q.shape
    half = cos.shape[-1] // 2
    rest = width - 2 * half
    q_out, k_out = (_empty(x.to(stored_dtype(x.dtype))) for x in (q, k))
    chosen = config("rope", q)
    launch_kernel(
        rope_kernel,
        (tokens, batch),
        chosen,
        q,
        k,
        cos,
        sin,
        q_out,
        k_out,
        tokens,
        q_heads,
        k.shape[1],
        width,
        *q.stride()[:3],
        *k.stride()[:3],
        0 if cos.shape[0] == 1 else cos.stride(0),
        cos.stride(1),
        HALF=half,
        BACKWARD=backward,
        HEADS=chosen["HEADS"],
        BLOCK=1 << (half - 1).bit_length(),
        REST=1 << (rest - 1).bit_length() if rest else 0,
    )
    return q_out.to(q.dtype), k_out.to(k.dtype)
