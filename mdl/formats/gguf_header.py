"""The head of a GGUF file: its scalar metadata, without the tokens, and its table of tensors.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package reads
whole files; of one on the Hub only the first bytes are fetched.
"""

import math
import struct
from collections.abc import Mapping
from mmap import mmap
from typing import Any, NamedTuple

from mdl.formats.gguf_types import BLOCKS

Buffer = bytes | mmap
MAGIC = b"GGUF"
_START = 24  # of the metadata: magic, version and two counts stand before it
# Enough for what stands before the tokens of every known model.
GGUF_HEAD = 65_536
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MOST_LAYERS = 1024  # longer arrays are about tokens
# What reading past the end raises; lengths and nesting come from the file.
_CUT_OFF = (struct.error, IndexError, OverflowError, RecursionError)


class GgufTensor(NamedTuple):
    """One tensor of a file: `type` is ggml's number of it, `start` its first byte in the file.

    `bytes` is `None` for a type that is not known here.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    start: int
    bytes: int | None


class GgufHeader(NamedTuple):
    """All that stands before the weights: scalar metadata, the tensors, where their data begins."""

    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    data_start: int


def read_gguf_head(data: bytes) -> Mapping[str, Any] | None:
    """The metadata in the first bytes of a file, as far as they go; `None` if it is not GGUF.

    Keys are GGUF's own (`general.file_type`, `general.type`, `split.count`); arrays of texts and
    those longer than a model's layers are left out, and so is all that follows a value that is
    cut off.
    """
    if len(data) < 24 or data[:4] != MAGIC:
        return None
    found: dict[str, Any] = {}
    try:
        _read_entries(data, min(_counts(data)[1], 100_000), found)
    except (*_CUT_OFF, ValueError):
        pass
    return found


def read_gguf_header(data: Buffer) -> GgufHeader | None:
    """The whole header in the first bytes of a file; `None` if they end before it does.

    Raises:
        ValueError: it is not the header of a GGUF file; the text says why.
    """
    if data[:4] != MAGIC[: len(data)]:
        raise ValueError("it does not begin with GGUF")
    try:
        tensors, entries = _counts(data)
        found: dict[str, Any] = {}
        at = _read_entries(data, entries, found)
        order, table = _order(data), []
        for _ in range(tensors):
            row, at = _tensor(data, at, order)
            table.append(row)
    except _CUT_OFF:
        return None
    if at > len(data):
        return None
    alignment = found.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"its alignment is {alignment!r}")
    start = -(-at // alignment) * alignment
    moved = tuple(tensor._replace(start=start + tensor.start) for tensor in table)
    return GgufHeader(found, moved, start)


def _counts(data: Buffer) -> tuple[int, int]:
    """The numbers of tensors and of metadata entries."""
    order = _order(data)
    if struct.unpack_from(order + "I", data, 4)[0] < 2:
        raise ValueError("it is of version 1, which nothing reads any more")
    tensors, entries = struct.unpack_from(order + "QQ", data, 8)
    return tensors, entries


def _order(data: Buffer) -> str:
    return "<" if struct.unpack_from("<I", data, 4)[0] < 65_536 else ">"


def _read_entries(data: Buffer, count: int, found: dict[str, Any]) -> int:
    """Add the metadata entries to `found`, but for arrays; returns where they end."""
    order, at = _order(data), _START
    for _ in range(count):
        key, at = _string(data, at, order)
        kind = struct.unpack_from(order + "I", data, at)[0]
        value, at = _value(data, at + 4, kind, order)
        if value is not None:
            found[key] = value
    return at


def _tensor(data: Buffer, at: int, order: str) -> tuple[GgufTensor, int]:
    """A row of the tensor table, its start counted from that of the data, and where it ends."""
    name, at = _string(data, at, order)
    dimensions = struct.unpack_from(order + "I", data, at)[0]
    if dimensions > 8:
        raise ValueError(f"{name} has {dimensions} dimensions")
    shape = struct.unpack_from(f"{order}{dimensions}Q", data, at + 4)
    at += 4 + 8 * dimensions
    kind, start = struct.unpack_from(order + "IQ", data, at)
    block = BLOCKS.get(kind)
    size = None if block is None else math.prod(shape) // block[0] * block[1]
    return GgufTensor(name, shape[::-1], kind, start, size), at + 12


def _string(data: Buffer, at: int, order: str) -> tuple[str, int]:
    length = struct.unpack_from(order + "Q", data, at)[0]
    end = at + 8 + length
    if end > len(data):
        raise IndexError
    return data[at + 8 : end].decode("utf-8", "replace"), end


def _value(data: Buffer, at: int, kind: int, order: str) -> tuple[Any, int]:
    if kind in _SCALARS:
        form = order + _SCALARS[kind]
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    if kind == _STRING:
        return _string(data, at, order)
    if kind != _ARRAY:
        raise ValueError(kind)
    inner, count = struct.unpack_from(order + "IQ", data, at)
    at += 12
    if inner in _SCALARS:
        end = at + count * struct.calcsize(order + _SCALARS[inner])
        if count > _MOST_LAYERS:
            return None, end
        return struct.unpack_from(f"{order}{count}{_SCALARS[inner]}", data, at), end
    for _ in range(count):
        _, at = _value(data, at, inner, order)
    return None, at
