"""The sizes of a model that its memory depends on, from `config.json` or a GGUF header.

KV cache: keys and values of each layer's KV heads for each token; a layer with sliding-window
attention caches at most its window, one without attention nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_MOST_LAYERS = 10_000
# Every how many layers llama.cpp takes full attention where the header leaves it out
# (`set_swa_pattern` in its src/models).
_FULL_EVERY = {"gemma2": 2, "gpt-oss": 2, "cohere2": 4, "gemma3": 6}
_WITHOUT_CACHE = ("linear_attention", "mamba", "mamba2", "conv", "moe", "mlp")


class ModelShape(NamedTuple):
    """The sizes of a language model that determine its memory.

    `windows` has how many tokens each layer caches, `None` for all; `value_size` is that of a
    head's values where it is not `head_size`.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    windows: tuple[int | None, ...]
    value_size: int | None = None


def kv_cache_bytes(shape: ModelShape, tokens: int, *, batch: int = 1, element: int = 2) -> int:
    """Bytes of the keys and values of `tokens` tokens for `batch` sequences."""
    kept = sum(tokens if window is None else min(tokens, window) for window in shape.windows)
    width = shape.head_size + (shape.value_size or shape.head_size)
    return kept * shape.kv_heads * width * batch * element


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape in a config.json; `None` if it does not describe a plain transformer."""
    try:
        text = {**config, **(config.get("text_config") or {})}
        hidden = int(text["hidden_size"])
        layers, heads = int(text["num_hidden_layers"]), int(text["num_attention_heads"])
        if min(hidden, layers, heads) <= 0 or layers > _MOST_LAYERS:
            return None
        return ModelShape(
            layers=layers,
            hidden=hidden,
            intermediate=_largest(text.get("intermediate_size")) or 4 * hidden,
            heads=heads,
            kv_heads=_largest(text.get("num_key_value_heads")) or heads,
            head_size=_largest(text.get("head_dim")) or hidden // heads,
            vocabulary=int(text.get("vocab_size") or 0),
            windows=_windows(text, layers),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def shape_of_gguf(metadata: Mapping[str, Any]) -> ModelShape | None:
    """The shape in a GGUF header; `None` where the header lacks it.

    Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    family = metadata.get("general.architecture")

    def value(key: str) -> Any:
        return metadata.get(f"{family}.{key}")

    try:
        layers, hidden = int(value("block_count")), int(value("embedding_length") or 0)
        heads = _largest(value("attention.head_count"))
        head_size = int(value("attention.key_length") or hidden // heads)
        if min(layers, heads, head_size) <= 0 or layers > _MOST_LAYERS:
            return None
        kv_heads = value("attention.head_count_kv")
        pattern = value("attention.sliding_window_pattern")
        return ModelShape(
            layers=layers,
            hidden=hidden,
            intermediate=_largest(value("feed_forward_length")) or 4 * hidden,
            heads=heads,
            kv_heads=_largest(kv_heads) or heads,
            head_size=head_size,
            vocabulary=int(value("vocab_size") or 0),
            windows=_gguf_windows(
                layers,
                int(value("attention.sliding_window") or 0),
                _FULL_EVERY.get(str(family)) if pattern is None else pattern,
                kv_heads,
            ),
            value_size=int(value("attention.value_length") or 0) or None,
        )
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None


def _largest(value: Any) -> int:
    """A size, or the largest of those of the layers; 0 for none."""
    return max(map(int, value), default=0) if isinstance(value, list | tuple) else int(value or 0)


def _windows(text: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """The sliding window of each layer; `None` for full attention, 0 for no cache."""
    window = text.get("sliding_window")
    kinds = text.get("layer_types")
    width = int(window) if window else None
    if kinds and len(kinds) == layers:
        kept = {"sliding_attention": width, **dict.fromkeys(_WITHOUT_CACHE, 0)}
        return tuple(kept.get(kind) for kind in kinds)
    if window and text.get("use_sliding_window", True) and text.get("model_type") == "mistral":
        return (width,) * layers
    return (None,) * layers


def _gguf_windows(
    layers: int, window: int, pattern: Sequence[Any] | int | None, kv_heads: Any
) -> tuple[int | None, ...]:
    """As `_windows`; `pattern` says which layers slide, or that every so manieth one does not."""
    if not window or pattern is None:
        slides = [False] * layers
    elif isinstance(pattern, int):
        slides = [pattern <= 0 or i % pattern < pattern - 1 for i in range(layers)]
    else:
        slides = [bool(pattern[i % len(pattern)]) for i in range(layers)]
    heads = kv_heads if isinstance(kv_heads, list | tuple) else ()
    return tuple(
        0 if i < len(heads) and heads[i] == 0 else window if slides[i] else None
        for i in range(layers)
    )
