"""The forward of a decoder layer whose residual add and the norm after it are one operation.

Every layer has two adds. The first is followed by a norm of the same layer and is fused with it;
the second's norm belongs to the next layer, behind hooks and checkpoints, and stays an add.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mdl.kernels.ops import add_rms_norm
from mdl.kernels.swap.subclass import bare, original_of, with_renames


@dataclass(frozen=True)
class Parts:
    """What a family's decoder layer calls its children.

    norm: the norm of the sum. after_attention, after_mlp: what a branch passes before it is added;
    '' for nothing. gemma: the norm's weight is stored minus one and applied before rounding.
    not_for_attention: arguments of the layer that it does not hand on.
    """

    norm: str = "post_attention_layernorm"
    after_attention: str = ""
    after_mlp: str = ""
    gemma: bool = False
    first: str = "input_layernorm"
    attention: str = "self_attn"
    mlp: str = "mlp"
    not_for_attention: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Everything a layer of this form looks up."""
        found = {self.first, self.attention, self.norm, self.mlp}
        return frozenset(found | {self.after_attention, self.after_mlp} - {""})


LLAMA = Parts()
PHI3 = Parts(after_attention="resid_attn_dropout", after_mlp="resid_mlp_dropout")
GEMMA = Parts(
    "pre_feedforward_layernorm", "post_attention_layernorm", "post_feedforward_layernorm", True
)
PIXTRAL = Parts("ffn_norm", first="attention_norm", attention="attention", mlp="feed_forward")
MLLAMA = Parts(
    not_for_attention=frozenset(
        {"cross_attention_states", "cross_attention_mask", "full_text_row_masked_out_mask"}
    )
)


def decoder_forward(original: Any, parts: Parts) -> Callable[..., Any] | None:
    """norm(residual + attention) in one operation, the rest as the original has it.

    None if the original's code looks up other names than `parts` has: it is another layer.
    """
    theirs = inspect.unwrap(original.forward)
    code = getattr(theirs, "__code__", None)
    if code is None or set(code.co_names) != parts.names:
        return None
    norm_type = theirs.__globals__.get(norm_name(original))
    parameters = inspect.signature(theirs).parameters
    by_place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    # After self and hidden_states.
    positional = [name for name, one in parameters.items() if one.kind is by_place][2:]
    defaults = {
        name: one.default
        for name, one in parameters.items()
        if one.default is not inspect.Parameter.empty
    }

    def forward(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        norm = getattr(self, parts.norm)
        known = len(args) <= len(positional) and bare(norm)
        if not known or (original_of(type(norm)) or type(norm)) is not norm_type:
            return original.forward(self, hidden_states, *args, **kwargs)
        given = {**defaults, **dict(zip(positional, args, strict=False)), **kwargs}
        handed_on = {k: v for k, v in given.items() if k not in parts.not_for_attention}
        normal = getattr(self, parts.first)(hidden_states)
        attended = getattr(self, parts.attention)(hidden_states=normal, **handed_on)[0]
        if parts.after_attention:
            attended = getattr(self, parts.after_attention)(attended)
        normed, total = _add_norm(norm, attended, hidden_states, parts.gemma)
        branch = getattr(self, parts.mlp)(normed)
        if parts.after_mlp:
            branch = getattr(self, parts.after_mlp)(branch)
        return total + branch

    return with_renames(forward, original.forward)


def norm_after_sum(layer: Any) -> Any:
    """The norm that a layer of a known family applies to its first sum."""
    names = (PIXTRAL.norm, GEMMA.norm, LLAMA.norm)
    return next(getattr(layer, name) for name in names if hasattr(layer, name))


def norm_name(layer: Any) -> str:
    """What a layer type's family calls its RMSNorm: `LlamaDecoderLayer` has `LlamaRMSNorm`."""
    if layer.__name__ == "MllamaSelfAttentionDecoderLayer":
        return "MllamaTextRMSNorm"
    family: str = layer.__name__.removesuffix("DecoderLayer").removesuffix("AttentionLayer")
    return f"{family}RMSNorm"


def _add_norm(
    norm: Any, x: torch.Tensor, residual: torch.Tensor, gemma: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    if gemma:
        return add_rms_norm(x, residual, norm.weight, norm.eps, offset=1.0, cast=False)
    return add_rms_norm(x, residual, norm.weight, norm.variance_epsilon)
