"""A folder's bytes by the revisions that need them: what prune plans are made from.

The index stores it beside each folder's `Summary`, so that a plan need not read thousands of
folders again.
"""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from mdl.cachemgr.scan import Folder

# Stands among a part's holders for the files that no revision names.
ORPHANS = -1


class Part(NamedTuple):
    """Bytes that leave the folder together, with the last of their holders.

    Attributes:
        holders: positions in `Summary.revisions`, or `ORPHANS`.
        inode: as in `Blob.inode` where the bytes may have names elsewhere, else `None`.
        links: how many names the inode has in all, `here` of them in this folder.
    """

    holders: list[int]
    size: int
    inode: Any = None
    links: int = 1
    here: int = 1


class Breakdown(NamedTuple):
    """One folder, broken down.

    Attributes:
        accessed: each revision's newest access time; `None` for one without files.
        orphans: names in `blobs` that no revision has; `orphaned`: when the newest was written.
        incomplete: (name, bytes, when last written) of each unfinished download.
    """

    accessed: list[float | None]
    parts: list[Part]
    orphans: list[str]
    orphaned: float
    incomplete: list[tuple[str, int, float]]


def parse_breakdowns(texts: Iterable[str]) -> list[Breakdown]:
    """The breakdowns behind the index's texts; parsing them together is far faster."""
    found = []
    for accessed, parts, *others in json.loads(f"[{','.join(texts)}]"):
        found.append(Breakdown(accessed, [Part(*part) for part in parts], *others))
    return found


def break_down(folder: Folder) -> Breakdown:
    """Break a folder down."""
    blobs = folder.blobs
    holders: dict[str, list[int]] = {}
    accessed: list[float | None] = []
    for position, snapshot in enumerate(folder.snapshots):
        names = {pointer.blob for pointer in snapshot.pointers if pointer.blob is not None}
        accessed.append(max([blobs[name].atime for name in names], default=None))
        for name in names:
            holders.setdefault(name, []).append(position)
    orphans = [
        blob for blob in blobs.values() if blob.name not in holders and blob.inode[0] != "outside"
    ]
    return Breakdown(
        accessed,
        _parts(folder, holders),
        [blob.name for blob in orphans],
        max([blob.mtime for blob in orphans], default=0.0),
        [(part.name, part.size, part.mtime) for part in folder.incomplete],
    )


def _parts(folder: Folder, holders: dict[str, list[int]]) -> list[Part]:
    own: Counter[tuple[int, ...]] = Counter()
    several: dict[Any, list[Any]] = {}  # inode → its blobs here
    for blob in folder.blobs.values():
        if blob.inode[0] == "outside":
            continue
        if blob.links == 1 and blob.inode[0] != "shared":
            own[tuple(holders.get(blob.name, (ORPHANS,)))] += blob.size
        else:
            several.setdefault(blob.inode, []).append(blob)
    parts = [Part(list(positions), size) for positions, size in own.items()]
    for inode, names in several.items():
        together = {place for blob in names for place in holders.get(blob.name, (ORPHANS,))}
        parts.append(Part(sorted(together), names[0].size, inode, names[0].links, len(names)))
    return parts
