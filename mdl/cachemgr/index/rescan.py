"""Reading folders from the disk into rows of the index."""

import gc
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mdl.cachemgr.index.breakdown import Breakdown, break_down, parse_breakdowns
from mdl.cachemgr.index.grouping import Summary, parse_summaries
from mdl.cachemgr.index.snapshot_formats import formats_of
from mdl.cachemgr.scan import Folder, in_processes, scan_folder, store_is_marked, trustworthy
from mdl.store import FolderRow

# A process pays for its start from some 20 milliseconds of reading on.
_WORTH_A_PROCESS = 50


def read_folders(root: str, names: Sequence[str], *, marked: bool) -> list[FolderRow]:
    """Read each folder, in any order, by several processes where there are many.

    The garbage collector is paused: it would search hundreds of thousands of small values for
    cycles and find none.
    """

    def read(share: Sequence[str]) -> list[FolderRow]:
        return [read_folder(root, name, marked=marked) for name in share]

    enabled = gc.isenabled()
    gc.disable()
    try:
        return [FolderRow(*row) for row in in_processes(read, names, worth=_WORTH_A_PROCESS)]
    finally:
        if enabled:
            gc.enable()


def read_folder(root: str, name: str, *, marked: bool) -> FolderRow:
    """Read one folder.

    Probes that cannot be trusted are left out; the folder is then read again next time.
    """
    before = time.time_ns()
    folder = scan_folder(root, name, marked=marked)
    trusted = folder.readable and not folder.incomplete and trustworthy(folder.probes, before)
    summary = summarize(folder, root)
    # JSON in ASCII: names that are not UTF-8 stay what they are, as escaped surrogates.
    return FolderRow(
        name,
        json.dumps(folder.probes) if trusted else "",
        json.dumps(summary[1:]),
        json.dumps(break_down(folder)),
        bool(summary.links),
    )


def read_again(root: str, names: Sequence[str]) -> dict[str, tuple[Summary, Breakdown]]:
    """These folders as they are now; the index is neither read nor written."""
    rows = read_folders(root, names, marked=store_is_marked(root))
    summaries = parse_summaries([row.name for row in rows], [row.facts for row in rows])
    breakdowns = parse_breakdowns(row.breakdown for row in rows)
    return {s.name: (s, b) for s, b in zip(summaries, breakdowns, strict=True)}


def summarize(folder: Folder, root: str) -> Summary:
    """Summarize a folder of the cache at `root`."""
    own = 0
    links: list[Any] = []
    shared: list[Any] = []
    names_here: Counter[Any] = Counter()
    repeated = []
    for blob in folder.blobs.values():
        if blob.inode[0] == "outside":  # nothing that this cache occupies
            continue
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
             len(snapshot.pointers), snapshot.state, changed, formats_of(root, folder, snapshot))
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
        folder.keep_out,
        revisions,
        list(folder.problems),
        links,
        sorted(set(shared)),
    )
