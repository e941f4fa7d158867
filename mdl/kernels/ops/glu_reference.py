"""The gated units in plain torch: the operations transformers runs, in their order."""

import torch
from torch.nn import functional

KINDS = ("silu", "gelu_tanh", "gelu")


def activation(gate: torch.Tensor, kind: str) -> torch.Tensor:
    """silu, gelu (erf) or gelu_tanh of `gate`."""
    if kind == "silu":
        return functional.silu(gate)
    return functional.gelu(gate, approximate="tanh" if kind == "gelu_tanh" else "none")


def reference_glu(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    """activation(gate) * up."""
    return activation(gate, kind) * up


def reference_glu_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and up, in float32 inside."""
    wide, upper = gate.float(), grad.float()
    inner = upper * up.float()
    if kind == "silu":
        grad_gate = torch.ops.aten.silu_backward(inner, wide)
    else:
        how = "tanh" if kind == "gelu_tanh" else "none"
        grad_gate = torch.ops.aten.gelu_backward(inner, wide, approximate=how)
    grad_up = upper * activation(wide, kind)
    return grad_gate.to(gate.dtype), grad_up.to(up.dtype)
