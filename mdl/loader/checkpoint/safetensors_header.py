"""Safetensors headers: what tensors a file holds, checked before a byte of them is believed.

The format (https://github.com/huggingface/safetensors#format): eight bytes, the header's length
as a little-endian unsigned integer; the header, a JSON object; the tensors' bytes, without holes.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.errors import VerificationError

MAX_HEADER = 100_000_000  # the limit of the safetensors library itself, in bytes
# Bytes of one element, by the format's dtype names.
DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2,
    "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8,
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
    """The tensors of one file in the order of their bytes, and the file's own metadata."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a local file.

    Raises:
        VerificationError: the header lies about the file, or is none.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = header_length(stream.read(8), size, str(path))
        return parse_header(stream.read(length), size - 8 - length, str(path))


def header_length(first: bytes, file_size: int, where: str) -> int:
    """The header's length in bytes, refused where no such file can be.

    Raises:
        VerificationError: shorter than a header, or a header larger than the file or the limit.
    """
    if len(first) < 8:
        raise _lie(where, f"it is {file_size} bytes long, too short for a header")
    length = int.from_bytes(first[:8], "little")
    if length > MAX_HEADER or length > file_size - 8:
        raise _lie(where, f"its header claims {length} bytes in a file of {file_size}")
    return length


def parse_header(text: bytes, data_size: int, where: str) -> Header:
    """Parse a header and check every tensor against the bytes that are there.

    Args:
        text: the JSON header.
        data_size: bytes that follow the header in the file.
        where: the file's name, for messages.

    Raises:
        VerificationError: no JSON, a name twice, an unknown dtype, a shape that does not fit its
            bytes, tensors that overlap, leave holes or end elsewhere than the file does.
    """
    try:
        raw = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _lie(where, f"its header is no JSON object with unique names ({error})") from error
    if not isinstance(raw, dict):
        raise _lie(where, "its header is no JSON object")
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _lie(where, "its metadata is no JSON object")
    tensors = sorted((_tensor(name, entry, where) for name, entry in raw.items()), key=_start)
    at = 0
    for tensor in tensors:
        if tensor.start != at:
            found = "overlap" if tensor.start < at else "leave a hole"
            raise _lie(where, f"tensors {found} before {tensor.name!r}")
        at = tensor.end
    if at != data_size:
        raise _lie(where, f"its tensors need {at} bytes of data and the file has {data_size}")
    return Header(tuple(tensors), {str(key): str(value) for key, value in metadata.items()})


def _start(tensor: TensorInfo) -> tuple[int, int]:
    return tensor.start, tensor.end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return dict(pairs)


def _tensor(name: str, entry: Any, where: str) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        counts = [*shape, start, end]
    except (KeyError, TypeError, ValueError) as error:
        raise _lie(where, f"tensor {name!r} has no dtype, shape and offsets") from error
    if dtype not in DTYPE_BYTES:
        raise _lie(where, f"tensor {name!r} has the unknown dtype {dtype!r}")
    if not all(type(count) is int and count >= 0 for count in counts) or end < start:
        raise _lie(where, f"tensor {name!r} has a shape or offsets that are no sizes")
    if math.prod(shape) * DTYPE_BYTES[dtype] != end - start:
        raise _lie(where, f"tensor {name!r} of shape {shape} does not fit its {end - start} bytes")
    return TensorInfo(name, dtype, tuple(shape), start, end)


def _lie(where: str, why: str) -> VerificationError:
    return VerificationError(
        f"{where} is damaged or no safetensors file.",
        why=why,
        next="If it was downloaded, run `mdl pull NAME --repair` to fetch damaged files again.",
    )
