"""Invalid safetensors headers are clear errors, raised before anything is allocated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from mdl.errors import LoadError, VerificationError
from mdl.loader.checkpoint.checkpoint import read_checkpoint
from mdl.loader.checkpoint.files import choose_files
from mdl.loader.checkpoint.safetensors_header import header_length, parse_header, read_header

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def header(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


def test_a_real_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.int8)}, tmp_path / "m")
    found = {t.name: (t.dtype, t.shape, t.bytes) for t in read_header(tmp_path / "m").tensors}
    assert found == {"a": ("F32", (2, 3), 24), "b": ("I8", (4,), 4)}


@pytest.mark.parametrize(
    ("text", "size", "why"),
    [
        (b"[]", 0, "not a JSON object"),
        (b"{", 0, "not a JSON object"),
        (b"[" * 100_000, 0, "not a JSON object"),
        (b'{"a": 1, "a": 2}', 0, "duplicate"),
        (header(a={"dtype": "F32"}), 8, "lacks a dtype, shape or offsets"),
        (header(a={**ENTRY, "dtype": "F99"}), 8, "unknown dtype"),
        (header(a={**ENTRY, "shape": [2**60]}), 8, "does not match"),
        (header(a={**ENTRY, "shape": [-2]}), 8, "invalid shape or invalid offsets"),
        (header(a={**ENTRY, "shape": [True]}), 8, "invalid shape or invalid offsets"),
        (header(a={**ENTRY, "data_offsets": [8, 0]}), 8, "invalid shape or invalid offsets"),
        (header(a=ENTRY, b=ENTRY), 8, "overlap"),
        (header(a=ENTRY, b={**ENTRY, "data_offsets": [16, 24]}), 24, "gap"),
        (header(a=ENTRY), 7, "need 8 bytes"),
        (header(a=ENTRY), 9, "need 8 bytes"),
    ],
)
def test_invalid_headers(text: bytes, size: int, why: str) -> None:
    with pytest.raises(VerificationError, match=why):
        parse_header(text, size, "model.safetensors")


@pytest.mark.parametrize(
    ("first", "size"),
    [(b"", 0), ((10**15).to_bytes(8, "little"), 10**16), ((100).to_bytes(8, "little"), 50)],
)
def test_impossible_header_lengths(first: bytes, size: int) -> None:
    with pytest.raises(VerificationError):
        header_length(first, size, "model.safetensors")


@settings(max_examples=200)
@given(st.data())
def test_any_damage_is_an_error_or_leaves_the_same_tensors(data: st.DataObject) -> None:
    whole = save({"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.bfloat16)})
    length = int.from_bytes(whole[:8], "little")
    at = data.draw(st.integers(8, 8 + length - 1))
    damaged = bytearray(whole)
    damaged[at] = data.draw(st.integers(0, 255))
    try:
        found = parse_header(bytes(damaged[8 : 8 + length]), len(whole) - 8 - length, "m")
    except VerificationError:
        return
    assert sum(tensor.bytes for tensor in found.tensors) == len(whole) - 8 - length


def test_a_shard_in_the_index_but_not_on_the_disk(tmp_path: Path) -> None:
    shard = "model-00001-of-00002.safetensors"
    save_file({"a": torch.zeros(2)}, tmp_path / shard)
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": shard, "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(VerificationError, match="it is missing"):
        read_checkpoint(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for shard in shards:
        save_file({"a": torch.zeros(2)}, tmp_path / shard)
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(VerificationError, match="also in"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (["README.md"], "not a model"),
        (["adapter_config.json", "README.md"], "but no weights"),
        (["adapter_config.json", "adapter_model.bin"], "pickle"),
        (["README.md", "model.Q4_K_M.gguf"], "GGUF"),
        (["config.json", "pytorch_model.bin"], "pickle"),
        (["config.json", "weights.pt"], "pickle"),
        (["config.json", "tokenizer.json"], "a configuration but no weights"),
    ],
)
def test_a_repository_without_loadable_weights_is_rejected(paths: list[str], why: str) -> None:
    with pytest.raises(LoadError, match=why):
        choose_files(paths)


def test_an_adapter_is_recognized_among_other_files() -> None:
    saved = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    chosen = choose_files([*saved, "config.json", "checkpoint-9/adapter_config.json", "run.py"])
    assert chosen.adapter and chosen.weights == ("adapter_model.safetensors",)
    assert set(chosen.rest) == {"adapter_config.json", "tokenizer.json", "config.json"}
    assert not choose_files([*saved, "config.json", "model.safetensors"]).adapter


def test_shards_are_preferred_and_code_is_left_out() -> None:
    paths = [
        "config.json", "tokenizer.json", "chat_template.jinja", "model.py", "README.md",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "consolidated.safetensors", "pytorch_model.bin",
        "original/params.json", "additional_chat_templates/tool_use.jinja",
    ]  # fmt: skip
    chosen = choose_files(paths)
    assert chosen.weights == tuple(paths[5:7])
    assert set(chosen.rest) == {paths[n] for n in (0, 1, 2, 7, 11)}
    assert "model.py" in choose_files(paths, remote_code=True).rest
