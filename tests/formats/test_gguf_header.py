"""The header of a GGUF file: all tensors and where they are, and nothing from a damaged one."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import numpy
import pytest

from mdl.formats import read_gguf_header
from mdl.formats.gguf_types import BLOCKS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "b", "é"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_file_type(7)
    writer.add_tensor("flat", numpy.arange(6, dtype=numpy.float32))
    quantized = gguf.quants.quantize(
        numpy.ones((4, 64), dtype=numpy.float32), gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("packed", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file,
                 writer.write_tensors_to_file, writer.close):  # fmt: skip
        step()
    return Path(path).read_bytes()


def test_it_says_what_the_gguf_package_says(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    theirs = gguf.GGUFReader(tmp_path / "m.gguf")
    header = read_gguf_header(data)
    assert header is not None
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["general.file_type"] == 7
    assert [(t.name, t.type, t.start, t.bytes, list(t.shape)) for t in header.tensors] == [
        (t.name, int(t.tensor_type), t.data_offset, t.n_bytes, [int(n) for n in t.shape[::-1]])
        for t in theirs.tensors
    ]
    assert header.data_start == theirs.data_offset


def test_the_sizes_of_blocks_are_those_of_the_gguf_package() -> None:
    assert {int(k): v for k, v in gguf.GGML_QUANT_SIZES.items()} == BLOCKS


def test_a_cut_off_header_is_none_and_a_damaged_one_never_breaks(data: bytes) -> None:
    whole = read_gguf_header(data)
    assert whole is not None
    for end in range(whole.data_start - 31):
        assert read_gguf_header(data[:end]) is None, end
    chance = random.Random(3)
    for _ in range(3000):
        damaged = bytearray(data[: whole.data_start])
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(4, len(damaged))] = chance.randrange(256)
        try:
            read_gguf_header(bytes(damaged))
        except ValueError:
            pass
    with pytest.raises(ValueError, match="does not begin with GGUF"):
        read_gguf_header(b"PK" + data)
