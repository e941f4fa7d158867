"""SwiGLU and GeGLU: activation(gate) * up, differentiable.

Bytes a token must move in bfloat16: 6 I forward (two reads, one write), 10 I backward (three reads,
two writes). Source: arXiv:2002.05202.
"""

from typing import Any

import torch

from mdl.errors import UsageError
from mdl.kernels.nf4 import blocks_of
from mdl.kernels.ops.glu_reference import KINDS, reference_glu, reference_glu_backward
from mdl.kernels.ops.norm import rows_of
from mdl.kernels.runtime import config, custom_op, kernel_or_reference, launch_kernel, stored_dtype

__all__ = ["apply_glu", "geglu", "swiglu"]


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`. gate, up: [..., I]; halves of one tensor are read in place."""
    return apply_glu(gate, up, "silu")


def geglu(gate: torch.Tensor, up: torch.Tensor, *, approximate: bool = True) -> torch.Tensor:
    """`gelu(gate) * up`; the tanh approximation by default."""
    return apply_glu(gate, up, "gelu_tanh" if approximate else "gelu")


def apply_glu(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    """activation(gate) * up, for an activation in `KINDS`.

    Raises:
        UsageError: the shapes or dtypes differ, or no such activation.
    """
    if kind not in KINDS or gate.shape != up.shape or gate.dtype != up.dtype:
        raise UsageError(
            f"No gated unit of {kind!r} for {list(gate.shape)} and {list(up.shape)}.",
            why="Both halves must have one shape and dtype.",
            next=f"Activations: {', '.join(KINDS)}.",
        )
    apply: Any = GluFunction.apply
    result: torch.Tensor = apply(gate, up, kind)
    return result


class GluFunction(torch.autograd.Function):
    """Saves gate and up; the activation is computed again."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kind = kind
        result: torch.Tensor = glu_forward(gate, up, kind)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        gate, up = ctx.saved_tensors
        return (*glu_backward(grads[0], gate, up, ctx.kind), None)


def _forward_fake(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    return gate.new_empty(gate.shape)


@custom_op("glu", _forward_fake)
def glu_forward(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    """activation(gate) * up."""
    return kernel_or_reference("glu", gate, _launch, _reference, gate, up, kind)


def _reference(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    return reference_glu(gate, up, kind).contiguous()


def _launch(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    from mdl.kernels.ops.glu_kernels import glu_forward_kernel

    one, other, chosen = rows_of(gate), rows_of(up), config("glu", gate)
    out = torch.empty(gate.shape, dtype=stored_dtype(gate.dtype), device=gate.device)
    launch_kernel(
        glu_forward_kernel,
        (one.shape[0], blocks_of(one.shape[1], chosen["BLOCK"])),
        chosen,
        one,
        other,
        out,
        one.shape[1],
        one.stride(0),
        other.stride(0),
        KIND=kind,
        BLOCK=chosen["BLOCK"],
    )
    return out.to(gate.dtype)


def _backward_fake(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


@custom_op("glu_backward", _backward_fake)
def glu_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and up."""
    given = (grad, gate, up, kind)
    return kernel_or_reference("glu_backward", gate, _launch_backward, _reference_backward, *given)


def _reference_backward(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    of_gate, of_up = reference_glu_backward(*given)
    return of_gate.contiguous(), of_up.contiguous()


def _launch_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    from mdl.kernels.ops.glu_kernels import glu_backward_kernel

    one, other, chosen = rows_of(gate), rows_of(up), config("glu", gate)
    results = [
        torch.empty(x.shape, dtype=stored_dtype(x.dtype), device=x.device) for x in (gate, up)
    ]
    launch_kernel(
        glu_backward_kernel,
        (one.shape[0], blocks_of(one.shape[1], chosen["BLOCK"])),
        chosen,
        grad.contiguous(),
        one,
        other,
        *results,
        one.shape[1],
        one.stride(0),
        other.stride(0),
        KIND=kind,
        BLOCK=chosen["BLOCK"],
    )
    return results[0].to(gate.dtype), results[1].to(up.dtype)
