"""What the weights of a snapshot are: recognised once, and kept in the index."""

import json
from typing import Any

from mdl.cachemgr.scan import Folder, Snapshot, content_path, read_small
from mdl.formats import SIDE_FILES, Description, File, Format, format_labels, recognize

_LARGEST = 16_000_000
_READ = ("config.json", *SIDE_FILES)


def formats_of(root: str, folder: Folder, snapshot: Snapshot) -> list[str]:
    """The formats of a model's snapshot, its main one first: `16bit`, `gguf:Q4_K_M`, …"""
    return list(format_labels(recognize_snapshot(root, folder, snapshot)))


def recognize_snapshot(root: str, folder: Folder, snapshot: Snapshot) -> Format:
    """The format of a model's snapshot, with its variants and their files."""
    if folder.repo_type != "model" or not snapshot.pointers:
        return Format(None)
    files = []
    small: dict[str, Any] = {}
    for path, key in snapshot.pointers:
        blob = folder.blobs.get(key) if key is not None else None
        files.append(File(path, None if blob is None else blob.size))
        if path in _READ and blob is not None:
            small[path] = _json(content_path(root, folder.name, blob))
    config = small.pop("config.json", None)
    others = {path: table for path, table in small.items() if table is not None}
    return recognize(Description(folder.repo_id, tuple(files), config, others))


def _json(path: str) -> Any:
    try:
        value = json.loads(read_small(path, _LARGEST) or b"")
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
