"""Folders, from the disk to their rows in the index."""

import gc
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mdl.cachemgr.index.grouping import Summary
from mdl.cachemgr.scan import Folder, in_processes, scan_folder, settled

# A process is worth its start from some twenty milliseconds of reading on.
_WORTH_A_PROCESS = 50

# Name, probes, facts, linked: as `CacheIndex.put_folders` takes it.
Row = tuple[str, str, str, bool]


def read_folders(root: str, names: Sequence[str], *, marked: bool) -> list[Row]:
    """`read_folder` for each name, in any order, by several processes where there are many.

    The garbage collector does not look in between: it would look at every one of some hundred
    thousand small values, and find no cycle in them.
    """

    def read(share: Sequence[str]) -> list[Row]:
        return [read_folder(root, name, marked=marked) for name in share]

    enabled = gc.isenabled()
    gc.disable()
    try:
        return [tuple(row) for row in in_processes(read, names, worth=_WORTH_A_PROCESS)]
    finally:
        if enabled:
            gc.enable()


def read_folder(root: str, name: str, *, marked: bool) -> Row:
    """A folder's row for `CacheIndex.put_folders`.

    The probes are empty where they could not be trusted: the folder is then read again next time.
    """
    before = time.time_ns()
    folder = scan_folder(root, name, marked=marked)
    trusted = folder.readable and not folder.incomplete and settled(folder.probes, before)
    summary = summarize(folder)
    # JSON in ASCII: names that are no UTF-8 stay what they are, as escaped surrogates.
    probes = json.dumps(folder.probes) if trusted else ""
    return name, probes, json.dumps(summary[1:]), bool(summary.links)


def summarize(folder: Folder) -> Summary:
    """Sum a folder up."""
    own = 0
    links: list[Any] = []
    shared: list[Any] = []
    names_here: Counter[Any] = Counter()
    repeated = []
    for blob in folder.blobs.values():
        if blob.inode[0] == "shared":
            shared.append((blob.inode[1], blob.size))
        elif blob.links == 1:
            own += blob.size
        else:
            names_here[blob.inode] += 1
            repeated.append(blob)
    for blob in {blob.inode: blob for blob in repeated}.values():
        if names_here[blob.inode] >= blob.links:
            own += blob.size
        else:
            links.append((*blob.inode, blob.size, blob.links, names_here[blob.inode]))
    revisions = []
    logical = 0
    for snapshot in folder.snapshots:
        used = [folder.blobs[p.blob] for p in snapshot.pointers if p.blob is not None]
        size = sum([blob.size for blob in used])
        logical += size
        changed = max([blob.mtime for blob in used], default=snapshot.mtime)
        revisions.append(
            (snapshot.commit, folder.refs_of(snapshot.commit), size,
             len(snapshot.pointers), snapshot.state, changed)
        )  # fmt: skip
    blobs = folder.blobs.values()
    return Summary(
        folder.name,
        folder.alias_of,
        own,
        logical,
        len(folder.blobs),
        max((blob.atime for blob in blobs), default=0.0),
        max((blob.mtime for blob in blobs), default=0.0),
        len(folder.incomplete),
        sum(part.size for part in folder.incomplete),
        folder.no_exist,
        folder.readable,
        revisions,
        list(folder.problems),
        links,
        sorted(set(shared)),
    )
