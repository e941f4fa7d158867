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


def test_a_dtype_of_a_newer_format_is_not_called_damage() -> None:
    with pytest.raises(LoadError, match="the dtype F99"):
        parse_header(header(a={**ENTRY, "dtype": "F99"}), 8, "model.safetensors")


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
    except (VerificationError, LoadError):  # damage can look like a dtype of a newer format
        return
    assert sum(tensor.bytes for tensor in found.tensors) == len(whole) - 8 - length


def test_a_shard_in_the_index_but_not_on_the_disk(tmp_path: Path) -> None:
    shard = "model-00001-of-00002.safetensors"
    save_file({"a": torch.zeros(2)}, tmp_path / shard)
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": shard, "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(VerificationError, match=r"model-00002-of-00002\.safetensors is missing"):
        read_checkpoint(tmp_path)
