"""The forwards that swapped module types run: the module's own parameters, our operations.

Each builder takes the original type and returns a forward, or None where it does not fit. A forward
falls back to the original's wherever the kernel would not give the original's result.
"""

from collections.abc import Callable
from typing import Any

import torch

from mdl.kernels.nf4 import DTYPES, Packed4bit
from mdl.kernels.ops import (
    Lora,
    apply_glu,
    apply_rope,
    layer_norm,
    linear_4bit,
    lora_linear_4bit,
    rms_norm,
)
from mdl.kernels.swap.subclass import bare, with_globals

Forward = Callable[..., Any]


def rms_norm_forward(original: Any) -> Forward:
    """Llama's RMSNorm: rounded to the input's dtype before the weight."""

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)

    return forward


def gemma_norm_forward(original: Any) -> Forward:
    """Gemma's RMSNorm: the weight is stored minus one and applied before rounding."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps, offset=1.0, cast=False)

    return forward


def layer_norm_forward(original: Any) -> Forward:
    """torch's LayerNorm over one dimension."""

    def forward(self: Any, input: torch.Tensor) -> torch.Tensor:
        return layer_norm(input, self.weight, self.bias, self.eps)

    return forward


def mlp_forward(original: Any) -> Forward:
    """down(activation(gate(x)) * up(x))."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        kind = activation_kind(self.act_fn)
        if kind is None:
            return original.forward(self, x)  # type: ignore[no-any-return] # untyped library
        hidden = apply_glu(self.gate_proj(x), self.up_proj(x), kind)
        return self.down_proj(hidden)  # type: ignore[no-any-return] # untyped library

    return forward


def phi3_mlp_forward(original: Any) -> Forward:
    """The same with gate and up in one projection; its halves are read in place."""

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        kind = activation_kind(self.activation_fn)
        if kind is None:
            return original.forward(self, hidden_states)  # type: ignore[no-any-return] # untyped
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(apply_glu(gate, up, kind))  # type: ignore[no-any-return] # untyped library

    return forward


def activation_kind(module: Any) -> str | None:
    """Which of our activations a module is; None for another."""
    if type(module).__name__ in ("SiLU", "SiLUActivation"):
        return "silu"
    if type(module).__name__ in ("GELUTanh", "PytorchGELUTanh"):
        return "gelu_tanh"
    if type(module).__name__ in ("GELU", "GELUActivation"):
        return "gelu_tanh" if getattr(module, "approximate", "none") == "tanh" else "gelu"
    return None


def attention_forward(original: Any) -> Forward | None:
    """The original's forward, calling our rotary embedding."""
    theirs = original.forward.__globals__.get("apply_rotary_pos_emb")

    def apply_rotary_pos_emb(
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        unsqueeze_dim: int = 1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if unsqueeze_dim == 0 and cos.dim() == 2:  # Pixtral's: patches have no batch
            return apply_rotary_pos_emb(q, k, cos.unsqueeze(0), sin.unsqueeze(0))
        if unsqueeze_dim != 1 or cos.dim() != 3 or cos.dtype != q.dtype:
            return theirs(q, k, cos, sin, unsqueeze_dim)  # type: ignore[no-any-return] # untyped
        return apply_rope(q, k, cos, sin)

    return with_globals(original.forward, apply_rotary_pos_emb=apply_rotary_pos_emb)


def vision_attention_forward(original: Any) -> Forward | None:
    """The vision tower's forward, calling our rotary embedding.

    Its tables are float32, and what is rotated is rounded once, after the rotation, as the kernel
    does it. Patches have no batch: q, k are [T, H, D] and the tables [T, D].
    """
    theirs = original.forward.__globals__.get("apply_rotary_pos_emb_vision")

    def apply_rotary_pos_emb_vision(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if q.dim() != 3 or cos.dim() != 2:
            return theirs(q, k, cos, sin)  # type: ignore[no-any-return] # untyped
        heads = (one.transpose(0, 1).unsqueeze(0) for one in (q, k))
        tables = (one.float().unsqueeze(0) for one in (cos, sin))
        q_out, k_out = apply_rope(*heads, *tables)
        return q_out.squeeze(0).transpose(0, 1), k_out.squeeze(0).transpose(0, 1)

    return with_globals(original.forward, apply_rotary_pos_emb_vision=apply_rotary_pos_emb_vision)


def linear_4bit_forward(original: Any) -> Forward:
    """bitsandbytes' Linear4bit, with its rules for the compute dtype.

    Never repacks the weight for the CPU as the original does in eval mode, which loses the double
    quantization.
    """

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        weight = packed_weight(self)
        if weight is None:
            return original.forward(self, x)  # type: ignore[no-any-return] # untyped library
        wide = compute_input(self, x)
        bias = None if self.bias is None else self.bias.to(wide.dtype)
        return linear_4bit(wide, weight, bias).to(x.dtype)

    return forward


def packed_weight(layer: Any) -> Packed4bit | None:
    """A Linear4bit's weight as our kernels take it; None where its layout is another."""
    state = getattr(layer.weight, "quant_state", None) or getattr(layer, "quant_state", None)
    if state is None or getattr(state, "packing_format_for_cpu", False):
        return None
    if tuple(state.shape) != (layer.out_features, layer.in_features):
        return None
    return Packed4bit.from_bitsandbytes(layer.weight, state)


def compute_input(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """x in the dtype bitsandbytes would compute in."""
    if not layer.compute_type_is_set:
        layer.set_compute_type(x)
        layer.compute_type_is_set = True
    wide = x if layer.compute_dtype is None else x.to(layer.compute_dtype)
    return wide if wide.dtype in DTYPES else wide.float()


def lora_4bit_forward(original: Any) -> Forward:
    """PEFT's LoRA layer over a Linear4bit, for its common case; any other goes to PEFT's own."""

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        name = single_adapter(self) if not args and not kwargs else None
        layer = self.get_base_layer()
        weight = packed_weight(layer) if name and bare(layer) else None
        if name is None or weight is None:
            return original.forward(self, x, *args, **kwargs)  # type: ignore[no-any-return] # untyped
        wide = compute_input(layer, x)
        bias = None if layer.bias is None else layer.bias.to(wide.dtype)
        dropout = self.lora_dropout[name]
        dropped = None
        if self.training and getattr(dropout, "p", 0.0) > 0.0:
            dropped = dropout(wide)
        lora = Lora(self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name])
        # All parts have one dtype here; autocast would cast them once more.
        with torch.autocast(x.device.type, enabled=False):
            return lora_linear_4bit(wide, weight, lora, bias, dropped=dropped).to(x.dtype)

    return forward


def single_adapter(layer: Any) -> str | None:
    """The one plain adapter a LoRA layer would add; None for several, merged, DoRA and so on."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1 or layer.disable_adapters or layer.merged:
        return None
    name: str = active[0]
    if name in layer.lora_variant or layer.lora_bias.get(name, False):
        return None
    return name
