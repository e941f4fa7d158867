"""Move blobs that are older than huggingface_hub's shared store into it.

Only blobs whose Xet hash is in a tree listing, and only where there is such a store.
"""

import os
import stat
from collections.abc import Sequence

from mdl.cachemgr.journal import payload_path
from mdl.cachemgr.layout import SHA256_LENGTH, is_hash
from mdl.cachemgr.normalize.operations import Steps
from mdl.cachemgr.scan import Folder, read_tree_listing, same_content, store_is_marked


def store_blobs(root: str, steps: Steps, folders: Sequence[Folder], *, compare: bool) -> None:
    """Add the operations that turn blobs into links into the store; none without a store."""
    if not store_is_marked(root):
        return
    mode = payload_mode(root)
    planned: set[str] = set()
    for folder in folders:
        hashes = xet_hashes(root, folder)
        for blob in folder.blobs.values():
            xet = hashes.get((blob.name, blob.size))
            if xet is None or blob.inode[0] == "shared":
                continue
            path = os.path.join(root, folder.name, "blobs", blob.name)
            payload = payload_path(root, xet)
            there = os.path.lexists(payload)
            if compare and there and not same_content(payload, path):
                continue
            steps.blobs.append(
                {"op": "store", "path": path, "payload": payload, "root": root,
                 "line": f"{folder.name}/blobs/{blob.name}",
                 "text": os.path.relpath(payload, os.path.dirname(path)),
                 "temp": steps.temporary(), "mode": mode, "made": not there}
            )  # fmt: skip
            if (there or payload in planned) and blob.links == 1:
                steps.saved += blob.size
            planned.add(payload)


def xet_hashes(root: str, folder: Folder) -> dict[tuple[str, int], str]:
    """(blob's name, size) → Xet hash, from every listing of the folder."""
    return {
        (file.hash, file.size): file.xet_hash
        for snapshot in folder.snapshots
        for file in (read_tree_listing(root, folder.name, snapshot.commit) or {}).values()
        if isinstance(file.xet_hash, str) and is_hash(file.xet_hash, SHA256_LENGTH)
    }


def payload_mode(root: str) -> int:
    """Readable for those who may enter the root, writable for nobody: huggingface_hub's rule."""
    mode = stat.S_IMODE(os.stat(root).st_mode)
    return 0o400 | (0o040 if mode & stat.S_IXGRP else 0) | (0o004 if mode & stat.S_IXOTH else 0)
