"""The forwards that swapped module types run: the module's own parameters, our operations.

Each builder takes the original type and returns a forward, or None where it does not fit. A forward
falls back to the original's wherever the kernel would not give the original's result.
"""

from collections.abc import Callable
from typing import Any

import torch

from mdl.kernels.glu import glu
from mdl.kernels.linear4bit import linear_4bit
from mdl.kernels.lora import Lora, lora_linear_4bit
from mdl.kernels.loss import fused_linear_cross_entropy
from mdl.kernels.loss_options import LossOptions
from mdl.kernels.nf4_layout import DTYPES, Packed4bit
from mdl.kernels.norm import layer_norm, rms_norm
from mdl.kernels.rope import rope
from mdl.kernels.swapped import signature_of, with_globals

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
        hidden = glu(self.gate_proj(x), self.up_proj(x), kind)
        return self.down_proj(hidden)  # type: ignore[no-any-return] # untyped library

    return forward


def phi3_mlp_forward(original: Any) -> Forward:
    """The same with gate and up in one projection; its halves are read in place."""

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        kind = activation_kind(self.activation_fn)
        if kind is None:
            return original.forward(self, hidden_states)  # type: ignore[no-any-return] # untyped
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(glu(gate, up, kind))  # type: ignore[no-any-return] # untyped library

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
        if unsqueeze_dim != 1 or cos.dim() != 3 or cos.dtype != q.dtype:
            return theirs(q, k, cos, sin, unsqueeze_dim)  # type: ignore[no-any-return] # untyped
        return rope(q, k, cos, sin)

    return with_globals(original.forward, apply_rotary_pos_emb=apply_rotary_pos_emb)


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
        weight = packed_weight(self.get_base_layer()) if name else None
        if name is None or weight is None:
            return original.forward(self, x, *args, **kwargs)  # type: ignore[no-any-return] # untyped
        layer = self.get_base_layer()
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


def causal_lm_forward(original: Any) -> Forward:
    """A causal language model whose training loss never holds all the logits.

    While training with labels, `logits` in the output is None. In every other case, and with a
    loss function or head of the user's own, the original's forward runs.
    """
    signature = signature_of(original)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs).arguments
        more = bound.pop("kwargs", {})
        if not takes_fused_loss(self, bound, more):
            return original.forward(self, *args, **kwargs)
        labels = bound.pop("labels")
        bound.pop("self")
        bound.pop("logits_to_keep", None)
        outputs = self.model(**bound, **more)
        loss = model_loss(self, outputs.last_hidden_state, labels, more)
        from transformers.modeling_outputs import CausalLMOutputWithPast

        return CausalLMOutputWithPast(
            loss=loss,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    return forward


def takes_fused_loss(model: Any, bound: dict[str, Any], more: dict[str, Any]) -> bool:
    """Whether a call is a training step with transformers' own loss and a plain head."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    return (
        model.training
        and torch.is_grad_enabled()
        and bound.get("labels") is not None
        and isinstance(bound.get("logits_to_keep", 0), int)
        and bound.get("logits_to_keep", 0) == 0
        and more.get("return_dict", True) is not False
        and model.config.return_dict
        and type(model.lm_head) is torch.nn.Linear
        and model.loss_function is ForCausalLMLoss
    )


def model_loss(
    model: Any, hidden: torch.Tensor, labels: torch.Tensor, more: dict[str, Any]
) -> torch.Tensor:
    """transformers' ForCausalLMLoss, from hidden states. Token n predicts token n + 1."""
    ignore = more.get("ignore_index", -100)
    shifted = more.get("shift_labels")
    if shifted is None:
        shifted = torch.nn.functional.pad(labels, (0, 1), value=ignore)[..., 1:]
    head = model.lm_head
    cap = getattr(model.config, "final_logit_softcapping", None) or 0.0
    return fused_linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]).to(head.weight.dtype),
        head.weight,
        shifted.reshape(-1).to(hidden.device),
        head.bias,
        LossOptions(ignore_index=ignore, softcap=cap),
        count=_on(more.get("num_items_in_batch"), hidden.device),
    )


def _on(count: Any, device: torch.device) -> Any:
    return count.to(device) if isinstance(count, torch.Tensor) else count
