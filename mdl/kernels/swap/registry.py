"""Which module types have a kernel, and which operation each one gets."""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mdl.errors import MdlError
from mdl.kernels.swap import causal_lm, forwards
from mdl.kernels.swap import decoder_layer as decoder
from mdl.kernels.swap.subclass import path_of, subclass


@dataclass(frozen=True)
class Operation:
    """One operation that `apply` can put into a model."""

    name: str
    what: str


OPERATIONS = (
    Operation("linear_4bit", "bitsandbytes' 4-bit linear layers, forward and gradient"),
    Operation("lora_4bit", "PEFT's LoRA layers over 4-bit linear layers, in one product"),
    Operation("rms_norm", "RMSNorm"),
    Operation("add_rms_norm", "the residual add and the RMSNorm after it, in a decoder layer"),
    Operation("layer_norm", "LayerNorm"),
    Operation("rope", "rotary position embedding of Q and K"),
    Operation("glu", "SwiGLU and GeGLU in the MLP"),
    Operation("cross_entropy", "the training loss, fused with the output projection"),
)


@dataclass(frozen=True)
class Rule:
    """The operation of one module type, and how its forward is built from the original."""

    operation: str
    build: Callable[[Any], forwards.Forward | None]


def _types(pattern: str, families: dict[str, str]) -> list[str]:
    return [
        f"transformers.models.{family}.modeling_{family}.{pattern.format(prefix)}"
        for family, prefix in families.items()
    ]


_PLAIN = {
    "llama": "Llama",
    "qwen2": "Qwen2",
    "qwen2_vl": "Qwen2VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3": "Qwen3",
    "mistral": "Mistral",
    "phi3": "Phi3",
}
_GEMMA = {"gemma2": "Gemma2", "gemma3": "Gemma3"}
_MLP = {
    **{family: prefix for family, prefix in _PLAIN.items() if family != "phi3"},
    **_GEMMA,
    "qwen2_vl": "Qwen2",
    "qwen2_5_vl": "Qwen2",
    "mllama": "MllamaText",
    "pixtral": "Pixtral",
}
_CAUSAL = {
    **{name: prefix for name, prefix in {**_PLAIN, **_GEMMA}.items() if "vl" not in name},
    "mllama": "Mllama",
}
# Llama 3.2 Vision, and Mistral 3 with its vision tower; their other text layers are Mistral's.
_MORE_NORMS = {"mllama": "MllamaText", "mistral3": "Mistral3", "pixtral": "Pixtral"}
_MLLAMA_LAYER = {"mllama": "MllamaSelfAttention"}
_PIXTRAL = {"pixtral": "Pixtral"}
_QWEN_VISION = {"qwen2_5_vl": "Qwen2_5_VL"}
_CONDITIONAL = {
    "qwen2_vl": "Qwen2VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "gemma3": "Gemma3",
    "mistral3": "Mistral3",
    "mllama": "Mllama",
    "llava": "Llava",
}


def _layer(parts: decoder.Parts) -> Callable[[Any], forwards.Forward | None]:
    return lambda original: decoder.decoder_forward(original, parts)


_GROUPS: tuple[tuple[str, Callable[[Any], forwards.Forward | None], list[str]], ...] = (
    ("linear_4bit", forwards.linear_4bit_forward, ["bitsandbytes.nn.modules.Linear4bit"]),
    ("lora_4bit", forwards.lora_4bit_forward, ["peft.tuners.lora.bnb.Linear4bit"]),
    ("rms_norm", forwards.rms_norm_forward, _types("{}RMSNorm", {**_PLAIN, **_MORE_NORMS})),
    ("rms_norm", forwards.gemma_norm_forward, _types("{}RMSNorm", _GEMMA)),
    (
        "add_rms_norm",
        _layer(decoder.LLAMA),
        _types("{}DecoderLayer", {name: _PLAIN[name] for name in _PLAIN if name != "phi3"}),
    ),
    ("add_rms_norm", _layer(decoder.PHI3), _types("{}DecoderLayer", {"phi3": "Phi3"})),
    ("add_rms_norm", _layer(decoder.GEMMA), _types("{}DecoderLayer", _GEMMA)),
    ("add_rms_norm", _layer(decoder.MLLAMA), _types("{}DecoderLayer", _MLLAMA_LAYER)),
    ("add_rms_norm", _layer(decoder.PIXTRAL), _types("{}AttentionLayer", _PIXTRAL)),
    ("layer_norm", forwards.layer_norm_forward, ["torch.nn.modules.normalization.LayerNorm"]),
    ("rope", forwards.attention_forward, _types("{}Attention", {**_PLAIN, **_GEMMA})),
    ("rope", forwards.attention_forward, _types("{}SelfAttention", {"mllama": "MllamaText"})),
    ("rope", forwards.attention_forward, _types("{}Attention", _PIXTRAL)),
    ("rope", forwards.vision_attention_forward, _types("VisionAttention", {"qwen2_vl": ""})),
    ("rope", forwards.vision_attention_forward, _types("{}VisionAttention", _QWEN_VISION)),
    ("glu", forwards.mlp_forward, _types("{}MLP", _MLP)),
    ("glu", forwards.mlp_forward, _types("Qwen2_5_VLMLP", {"qwen2_5_vl": ""})),
    ("glu", forwards.phi3_mlp_forward, _types("Phi3MLP", {"phi3": ""})),
    ("cross_entropy", causal_lm.causal_lm_forward, _types("{}ForCausalLM", _CAUSAL)),
    (
        "cross_entropy",
        causal_lm.causal_lm_forward,
        _types("{}ForConditionalGeneration", _CONDITIONAL),
    ),
)

RULES: dict[str, Rule] = {
    path: Rule(operation, build) for operation, build, paths in _GROUPS for path in paths
}


def rule_for(kind: type) -> Rule | None:
    """The rule of exactly this type; subclasses of it may compute something else."""
    return RULES.get(path_of(kind))


@functools.cache
def class_for(original: type) -> type | None:
    """The subclass that runs our operation; None if the type does not look as expected."""
    rule = rule_for(original)
    forward = rule.build(original) if rule is not None else None
    return subclass(original, forward, __name__) if forward is not None else None


def __getattr__(name: str) -> Any:
    # Unpickling a model asks this module for "transformers:models:...:LlamaRMSNorm".
    if ":" not in name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, kind = name.replace(":", ".").rpartition(".")
    made = class_for(getattr(importlib.import_module(module), kind))
    if made is None:
        raise MdlError(
            f"The pickled module type {kind} has no kernel in this version of mdl.",
            next="Save the model with save_pretrained, which does not pickle classes.",
        )
    return made
