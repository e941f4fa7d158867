"""The names of downloaded content: snapshot links, refs, `.no_exist` and tree listings."""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mdl.cachemgr.layout import COMMIT_LENGTH, SHA256_LENGTH, is_hash
from mdl.errors import NameRefusedError


class SnapshotFile(NamedTuple):
    """A file of a snapshot: where its content lies, its size in bytes, its name on the Hub."""

    path: str
    size: int
    etag: str


def local_file(folder: Path, commit: str, name: str) -> SnapshotFile | None:
    """A file that is here under its hash; `None` for one that is not, or has only a name."""
    pointer = _inside(folder / "snapshots" / commit, name)
    try:
        target = os.readlink(pointer)
        size = os.stat(pointer).st_size
    except OSError:
        return None
    etag = os.path.basename(target)
    if not (is_hash(etag, SHA256_LENGTH) or is_hash(etag, COMMIT_LENGTH)):
        return None
    return SnapshotFile(pointer, size, etag)


def add_file(folder: Path, commit: str, name: str, etag: str) -> SnapshotFile:
    """Give a blob that is here its name in a snapshot."""
    pointer = _inside(folder / "snapshots" / commit, name)
    blob = folder / "blobs" / etag
    os.makedirs(os.path.dirname(pointer), exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.symlink(os.path.relpath(blob, os.path.dirname(pointer)), pointer)
    return SnapshotFile(pointer, blob.stat().st_size, etag)


def read_ref(folder: Path, revision: str) -> str | None:
    """The commit that a branch or tag named when it was last asked for."""
    with contextlib.suppress(OSError, UnicodeDecodeError, NameRefusedError):
        commit = Path(_inside(folder / "refs", revision)).read_text().strip()
        return commit if is_hash(commit, COMMIT_LENGTH) else None
    return None


def write_ref(folder: Path, revision: str, commit: str) -> None:
    """Record what a branch or tag names, as huggingface_hub does."""
    if revision == commit or read_ref(folder, revision) == commit:
        return
    _write(Path(_inside(folder / "refs", revision)), commit)


def known_missing(folder: Path, commit: str, name: str) -> bool:
    """Whether the Hub said that this commit has no such file."""
    return os.path.exists(_inside(folder / ".no_exist" / commit, name))


def record_missing(folder: Path, commit: str, name: str) -> None:
    """Record that this commit has no such file."""
    path = Path(_inside(folder / ".no_exist" / commit, name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def write_listing(folder: Path, commit: str, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `trees/<commit>.json`.

    Args:
        files: path → `size` and `blob_id`, with `lfs_sha256` and `lfs_size` for LFS files.
    """
    path = folder / "trees" / f"{commit}.json"
    if not path.exists():
        _write(path, json.dumps({"format_version": 1, "files": dict(sorted(files.items()))}))


def _inside(folder: Path, name: str) -> str:
    """The path of `name` below `folder`.

    Raises:
        NameRefusedError: it would lie elsewhere.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise NameRefusedError(
            f"{name!r} is not a file of a repository.", next="Write it as folder/file."
        )
    return os.path.join(folder, *parts)


def _write(path: Path, text: str) -> None:
    """Write a small file in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=".mdl-", dir=path.parent)
    try:
        with open(fd, "w") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
