"""Hashes of a checkpoint: its files, its configuration, and a fingerprint of its weights."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.cachemgr.verify import hash_file
from mdl.loader.checkpoint.checkpoint import Checkpoint
from mdl.loader.checkpoint.safetensors_header import TensorInfo

SAMPLE = 1024  # bytes read at each end of a tensor for the fingerprint


@dataclass(frozen=True)
class FileRecord:
    """A file that was read. `hash` is the name of its blob in the cache: SHA-256 for large files,
    git's blob SHA-1 for small ones; None outside the cache."""

    path: str
    size: int
    hash: str | None


def file_records(checkpoint: Checkpoint) -> tuple[FileRecord, ...]:
    """The checkpoint's files with the hashes the cache knows them by."""
    return tuple(
        FileRecord(name, path.stat().st_size, blob_hash(path))
        for name in checkpoint.files.read
        if (path := checkpoint.folder / name).exists()
    )


def blob_hash(path: Path) -> str | None:
    """The hash that names a cached file's blob; None outside a cache."""
    target = path.resolve()
    name = target.name
    if target.parent.name != "blobs" and target.parent.parent.name != "blobs":
        return None
    is_hash = len(name) in (40, 64) and set(name) <= set("0123456789abcdef")
    return name if is_hash else None


def has_hash(path: Path, expected: str) -> bool:
    """Whether a file has this hash: SHA-256 (64 digits) or git's blob SHA-1 (40)."""
    kind = "sha256" if len(expected) == 64 else "git-sha1"
    return hash_file(str(path.resolve()), kind) == expected


def check_hash(folder: Path, name: str) -> tuple[bool, str]:
    """Whether a file has the hash that names its blob, and what was checked."""
    expected = blob_hash(folder / name)
    if expected is None:
        return True, f"{name} (no recorded hash)"
    if has_hash(folder / name, expected):
        return True, name
    return False, f"{name} does not match the hash in its blob's name"


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config.json, whatever its layout."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def fingerprint(checkpoint: Checkpoint) -> str | None:
    """SHA-256 over the name, dtype, shape and both ends of every tensor.

    Reads about 2 KiB a tensor, cheap enough for every load; `mdl verify` reads everything.
    None for pickles, whose tensors cannot be read without running them, and for GGUF.
    """
    if not checkpoint.headers:
        return None
    digest = hashlib.sha256()
    where = {t.name: (file, t) for file, h in checkpoint.headers.items() for t in h.tensors}
    with contextlib.ExitStack() as stack:
        streams = {}
        for file in checkpoint.headers:
            streams[file] = stack.enter_context((checkpoint.folder / file).open("rb"))
        starts = {file: 8 + int.from_bytes(stream.read(8), "little")
                  for file, stream in streams.items()}  # fmt: skip
        for name in sorted(where):
            file, tensor = where[name]
            digest.update(f"{name}|{tensor.dtype}|{tensor.shape}|".encode())
            for first, count in _samples(tensor):
                streams[file].seek(starts[file] + first)
                digest.update(streams[file].read(count))
    return digest.hexdigest()


def _samples(tensor: TensorInfo) -> list[tuple[int, int]]:
    """(offset, length) of the bytes to hash: all of a small tensor, both ends of a large one."""
    if tensor.bytes <= 2 * SAMPLE:
        return [(tensor.start, tensor.bytes)]
    return [(tensor.start, SAMPLE), (tensor.end - SAMPLE, SAMPLE)]
