"""Safetensors headers: the tensors in a file, checked against the file before they are used.

The format (https://github.com/huggingface/safetensors#format): eight bytes, the header's length
as a little-endian unsigned integer; the header, a JSON object; the tensors' bytes, without gaps.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.errors import LoadError
from mdl.loader.checkpoint.damage import check_no_pointer, damaged_file

MAX_HEADER = 100_000_000  # bytes; the safetensors library has the same limit
# Bits per element.
DTYPE_BITS: Mapping[str, int] = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file. `start` and `end` are byte offsets into the data part."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Header:
    """The tensors of a file in the order of their bytes, and the file's metadata."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a local file.

    Raises:
        VerificationError: the header does not match the file, or is not a header.
        LoadError: a dtype that is not known here.
    """
    check_no_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = header_length(stream.read(8), size, path)
        return parse_header(stream.read(length), size - 8 - length, path)


def header_length(first: bytes, file_size: int, path: Path | str) -> int:
    """The header's length in bytes, from the first eight bytes of the file.

    Raises:
        VerificationError: the file is too short, or the length exceeds the file or the limit.
    """
    if len(first) < 8:
        raise damaged_file(path, f"At {file_size} bytes it is too short for a header.")
    length = int.from_bytes(first[:8], "little")
    if length > MAX_HEADER or length > file_size - 8:
        why = f"Its header claims {length} bytes in a file of {file_size} bytes."
        raise damaged_file(path, why)
    return length


def parse_header(text: bytes, data_size: int, path: Path | str) -> Header:
    """Parse a header and check every tensor against the size of the data.

    Args:
        text: the JSON header.
        data_size: bytes after the header in the file.
        path: the file's name, for error messages.

    Raises:
        VerificationError: not JSON, a duplicate name, a shape that does not match its
            bytes, or tensors that overlap, leave gaps or do not end where the file does.
        LoadError: a dtype that is not known here.
    """
    try:
        raw = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        why = f"Its header is not a JSON object with unique names: {error}."
        raise damaged_file(path, why) from error
    if not isinstance(raw, dict):
        raise damaged_file(path, "Its header is not a JSON object.")
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise damaged_file(path, "Its metadata is not a JSON object.")
    tensors = sorted((_tensor(name, entry, path) for name, entry in raw.items()), key=_start)
    at = 0
    for tensor in tensors:
        if tensor.start != at:
            problem = "overlap" if tensor.start < at else "leave a gap"
            raise damaged_file(path, f"Tensors {problem} before {tensor.name!r}.")
        at = tensor.end
    if at != data_size:
        why = f"Its tensors need {at} bytes of data, but the file has {data_size}."
        raise damaged_file(path, why)
    return Header(tuple(tensors), {str(key): str(value) for key, value in metadata.items()})


def _start(tensor: TensorInfo) -> tuple[int, int]:
    return tensor.start, tensor.end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate name {twice!r}")
    return dict(pairs)


def _tensor(name: str, entry: Any, path: Path | str) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        counts = [*shape, start, end]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_file(path, f"Tensor {name!r} lacks a dtype, shape or offsets.") from error
    if dtype not in DTYPE_BITS:
        raise LoadError(
            f"{path} has tensors of the dtype {dtype}, which this version of mdl does not know.",
            why=f"Tensor {name!r} is one.",
            next="Upgrade mdl, or load another repository of the model.",
        )
    if not all(type(count) is int and count >= 0 for count in counts) or end < start:
        raise damaged_file(path, f"Tensor {name!r} has an invalid shape or invalid offsets.")
    if math.prod(shape) * DTYPE_BITS[dtype] != 8 * (end - start):
        why = f"Tensor {name!r} of shape {shape} does not match its {end - start} bytes."
        raise damaged_file(path, why)
    return TensorInfo(name, dtype, tuple(shape), start, end)
