"""The head of a GGUF file: its scalar metadata, without the tokens that follow them.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package reads
whole files; of one on the Hub only the first bytes are fetched.
"""

import struct
from collections.abc import Mapping
from typing import Any

MAGIC = b"GGUF"
# Enough for what stands before the tokens of every known model.
GGUF_HEAD = 65_536
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MOST_LAYERS = 1024  # longer arrays are about tokens


def read_gguf_head(data: bytes) -> Mapping[str, Any] | None:
    """The metadata in the first bytes of a file, as far as they go; `None` if it is not GGUF.

    Keys are GGUF's own (`general.file_type`, `general.type`, `split.count`); arrays of texts and
    those longer than a model's layers are left out, and so is all that follows a value that is
    cut off.
    """
    if len(data) < 24 or data[:4] != MAGIC:
        return None
    order = "<" if struct.unpack_from("<I", data, 4)[0] < 65_536 else ">"
    count = struct.unpack_from(order + "Q", data, 16)[0]
    found: dict[str, Any] = {}
    at = 24
    try:
        for _ in range(min(count, 100_000)):
            key, at = _string(data, at, order)
            kind = struct.unpack_from(order + "I", data, at)[0]
            value, at = _value(data, at + 4, kind, order)
            if value is not None:
                found[key] = value
    except (struct.error, IndexError, ValueError):
        pass  # cut off where the caller stopped reading
    return found


def _string(data: bytes, at: int, order: str) -> tuple[str, int]:
    length = struct.unpack_from(order + "Q", data, at)[0]
    end = at + 8 + length
    if end > len(data):
        raise IndexError
    return data[at + 8 : end].decode("utf-8", "replace"), end


def _value(data: bytes, at: int, kind: int, order: str) -> tuple[Any, int]:
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
