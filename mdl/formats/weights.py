"""How many weights a model has, by part, from its `config.json`."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mdl.formats.types import number

# Where configurations of several models keep that of the language model.
NESTED = ("text_config", "llm_config", "language_config", "language_model_config", "thinker_config")
# Feed-forward networks of two matrices; the others have a gate beside them.
_TWO_MATRICES = (
    "gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "opt", "bloom", "falcon", "mpt", "phi",
    "starcoder2", "bert", "roberta", "xlm-roberta", "distilbert", "electra", "codegen", "nemotron",
)  # fmt: skip
_EXPERT_COUNTS = (
    "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "num_moe_experts",
)  # fmt: skip


class Weights(NamedTuple):
    """How many weights each part of a model has."""

    attention: float
    mlp: float
    experts: float
    embeddings: float
    vision: float = 0.0

    @property
    def layers(self) -> float:
        """The matrices that are quantized as a rule."""
        return self.attention + self.mlp + self.experts

    @property
    def total(self) -> float:
        return self.layers + self.embeddings + self.vision


def count_weights(config: Mapping[str, Any] | None) -> Weights | None:
    """Weights of a decoder (or of an encoder like BERT); `None` for what is not understood.

    Within a tenth for the common architectures, which is enough to tell 4 bits from 16.
    """
    config = config or {}
    text = language_config(config)
    hidden = _size(text, "hidden_size", "n_embd", "d_model", "dim")
    layers = _size(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    vocabulary = _size(text, "vocab_size")
    if (
        not hidden
        or not layers
        or text.get("is_encoder_decoder")
        or config.get("is_encoder_decoder")
    ):
        return None
    inner = _size(text, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") or 4 * hidden
    matrices = 2 if text.get("model_type") in _TWO_MATRICES else 3
    dense_layers, experts = _experts(text, hidden, layers, inner)
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    return Weights(
        attention=layers * _attention(text, hidden),
        mlp=dense_layers * matrices * hidden * inner,
        experts=experts,
        embeddings=vocabulary * hidden * (1 if tied else 2),
        vision=_vision(config),
    )


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model."""
    for key in NESTED:
        nested = config.get(key)
        if isinstance(nested, Mapping) and nested:
            return language_config(nested) if any(k in nested for k in NESTED) else nested
    return config


def named_weights(name: str) -> float | None:
    """How many weights a name claims: `-8B`, `-0.5b`, `-270M`, `8x7B`; a claim, and rough."""
    found = re.search(
        r"(?<![A-Za-z0-9.])(?:(\d+)x)?(\d+(?:[._]\d+)?)([BMT])(?![A-Za-z0-9])", name, re.IGNORECASE
    )
    if found is None:
        return None
    scale = {"b": 1e9, "m": 1e6, "t": 1e12}[found[3].lower()]
    return int(found[1] or 1) * float(found[2].replace("_", ".")) * scale


def _size(config: Mapping[str, Any], *keys: str) -> float:
    for key in keys:
        value = config.get(key)
        if isinstance(value, list) and value:  # one for each layer
            value = value[0]
        found = number(value)
        if found is None and isinstance(value, int) and not isinstance(value, bool):
            found = float(value)
        if found and found > 0:
            return found
    return 0.0


def _attention(text: Mapping[str, Any], hidden: float) -> float:
    heads = _size(text, "num_attention_heads", "n_head", "n_heads") or 1.0
    if text.get("kv_lora_rank"):  # multi-head latent attention
        nope, rope = _size(text, "qk_nope_head_dim"), _size(text, "qk_rope_head_dim")
        value, rank = _size(text, "v_head_dim"), _size(text, "kv_lora_rank")
        down = _size(text, "q_lora_rank")
        queries = (
            (hidden + heads * (nope + rope)) * down if down else hidden * heads * (nope + rope)
        )
        return (
            queries
            + hidden * (rank + rope)
            + rank * heads * (nope + value)
            + heads * value * hidden
        )
    width = _size(text, "head_dim") or hidden / heads
    shared = _size(text, "num_key_value_heads", "num_kv_heads") or heads
    return 2 * hidden * heads * width + 2 * hidden * shared * width


def _experts(
    text: Mapping[str, Any], hidden: float, layers: float, inner: float
) -> tuple[float, float]:
    """Layers without experts, and the weights of all experts."""
    count = _size(text, *_EXPERT_COUNTS)
    if count <= 1:
        return layers, 0.0
    width = _size(text, "moe_intermediate_size", "expert_ffn_hidden_size") or inner
    dense = _size(text, "first_k_dense_replace")
    shared = _size(text, "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")
    shared = shared or _size(text, "n_shared_experts") * width
    sparse = max(layers - dense, 0.0)
    return dense, sparse * 3 * hidden * (count * width + shared)


def _is_beyond(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    """Whether it has parts that are not counted here: sound, shared layers, odd experts."""
    if text.get("model_type") == "albert" or "hidden_size_per_layer_input" in text:
        return True
    if any("audio" in key or "talker" in key for key in config if isinstance(config[key], Mapping)):
        return True
    experts = any("expert" in key or "moe" in key for key in text)
    return experts and not _size(text, *_EXPERT_COUNTS)


def _vision(config: Mapping[str, Any]) -> float:
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return 0.0
    hidden = _size(vision, "hidden_size", "embed_dim")
    inner = _size(vision, "intermediate_size") or 4 * hidden
    depth = _size(vision, "num_hidden_layers", "depth", "layers")
    return depth * (4 * hidden * hidden + 2 * hidden * inner)
