"""What the KV cache of a model takes, by its configuration or its GGUF header."""

from typing import Any

import pytest

from mdl.formats import kv_cache_bytes, shape_of, shape_of_gguf

GGUF = {
    "general.architecture": "llama", "llama.block_count": 4, "llama.embedding_length": 64,
    "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
}  # fmt: skip
CONFIG = {
    "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
TOKEN = 2 * 4 * 2 * 16 * 2  # keys and values, layers, heads, their size, bytes


def gguf(**values: Any) -> dict[str, Any]:
    return {**GGUF, **{f"llama.attention.{key}": value for key, value in values.items()}}


def test_a_header_and_a_configuration_say_the_same() -> None:
    assert shape_of_gguf(GGUF) == shape_of(CONFIG) == shape_of({"text_config": CONFIG})
    assert kv_cache_bytes(shape_of(CONFIG), 100) == 100 * TOKEN  # type: ignore[arg-type] # there is one


@pytest.mark.parametrize(
    ("metadata", "tokens"),
    [
        (gguf(head_count_kv=(0, 2, 0, 2)), 200),  # attention in every other layer
        (gguf(sliding_window=8), 400),
        (gguf(sliding_window=8, sliding_window_pattern=0), 4 * 8),
        (gguf(sliding_window=8, sliding_window_pattern=4), 3 * 8 + 100),
        (gguf(sliding_window=8, sliding_window_pattern=(True, False)), 2 * 8 + 200),
        ({key.replace("llama.", "gpt-oss."): value for key, value in gguf(sliding_window=8).items()}
         | {"general.architecture": "gpt-oss"}, 2 * 8 + 200),
    ],
)  # fmt: skip
def test_a_layer_caches_what_its_attention_sees(metadata: dict[str, Any], tokens: int) -> None:
    shape = shape_of_gguf(metadata)
    assert shape is not None
    assert kv_cache_bytes(shape, 100) == tokens * TOKEN // 4


def test_values_may_be_narrower_than_keys() -> None:
    shape = shape_of_gguf(gguf(head_count_kv=1, key_length=576, value_length=512))
    assert shape is not None
    assert kv_cache_bytes(shape, 10) == 10 * 4 * (576 + 512) * 2


def test_linear_attention_has_no_cache() -> None:
    shape = shape_of({**CONFIG, "layer_types": ["linear_attention"] * 3 + ["full_attention"]})
    assert shape is not None
    assert kv_cache_bytes(shape, 100) == 100 * TOKEN // 4


@pytest.mark.parametrize(
    "metadata",
    [
        {}, {"general.architecture": "llama"}, {**GGUF, "llama.block_count": 1 << 60},
        {**GGUF, "llama.attention.head_count": 0}, {**GGUF, "llama.block_count": "many"},
        {**GGUF, "llama.embedding_length": 0},
    ],
)  # fmt: skip
def test_an_odd_header_gives_none(metadata: dict[str, Any]) -> None:
    assert shape_of_gguf(metadata) is None


def test_a_configuration_with_too_many_layers_gives_none() -> None:
    assert shape_of({**CONFIG, "num_hidden_layers": 10**12}) is None
