"""Mapped tensors are what safetensors reads, and writing to them leaves the file unchanged."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdl.loader.checkpoint.checkpoint import read_checkpoint
from mdl.loader.checkpoint.mmap_tensors import map_tensors
from tests.loader import tiny

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
    torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu,
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    """A folder with a configuration, for weights."""
    (tmp_path / "config.json").write_bytes((tiny_model("llama") / "config.json").read_bytes())
    return tmp_path


def test_every_dtype_and_shape(folder: Path) -> None:
    torch.manual_seed(1)
    some = torch.randint(0, 2, (3, 8), dtype=torch.uint8)
    tensors = {str(dtype): some.to(dtype) for dtype in DTYPES if dtype.itemsize > 1}
    tensors |= {str(dtype): some.clone().view(dtype) for dtype in DTYPES if dtype.itemsize == 1}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    save_file(tensors, folder / "model.safetensors")
    found = map_tensors(read_checkpoint(folder))
    expected = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        same = found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)
        assert torch.equal(*same), name


def test_shards(tmp_path: Path) -> None:
    tiny.save_model("llama", tmp_path, max_shard_size="50KB")
    checkpoint = read_checkpoint(tmp_path)
    assert len(checkpoint.files.weights.files) > 1
    expected = {}
    for name in checkpoint.files.weights.files:
        expected |= load_file(tmp_path / name)
    found = map_tensors(checkpoint)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())


def test_an_unaligned_tensor_is_copied(folder: Path) -> None:
    """The format allows unaligned tensors; torch cannot view them."""
    header = {
        "odd": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "wide": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
    }
    text = json.dumps(header).encode()
    data = bytes([1, 2, 3]) + struct.pack("<2f", 0.5, -4.0)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    found = map_tensors(read_checkpoint(folder))
    assert found["odd"].tolist() == [1, 2, 3]
    assert found["wide"].tolist() == [0.5, -4.0]


def test_writing_to_a_tensor_leaves_the_file_unchanged(folder: Path) -> None:
    save_file({"weight": torch.ones(4)}, folder / "model.safetensors")
    before = (folder / "model.safetensors").read_bytes()
    found = map_tensors(read_checkpoint(folder))
    found["weight"].zero_()
    assert found["weight"].sum() == 0
    assert (folder / "model.safetensors").read_bytes() == before
