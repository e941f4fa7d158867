"""Decide whether a snapshot is complete, partial or broken."""

from collections.abc import Collection, Mapping

from mdl.cachemgr.scan.model import Blob, Pointer, Snapshot
from mdl.cachemgr.scan.tree_listing import ListedFile


def state_of(
    pointers: Collection[Pointer], missing: Collection[str], problems: Collection[str]
) -> str:
    """`broken` with problems, `partial` if files are missing or there are none, else `complete`."""
    if problems:
        return "broken"
    return "partial" if missing or not pointers else "complete"


def wrong_sizes(
    pointers: Collection[Pointer], blobs: Mapping[str, Blob], listed: Mapping[str, ListedFile]
) -> list[str]:
    """One problem for each file whose size is not the listed one."""
    present = {pointer.path: pointer.blob for pointer in pointers}
    problems = []
    for path, file in listed.items():
        blob = present.get(path)
        if blob is not None and blobs[blob].size != file.size:
            problems.append(f"{path} has {blobs[blob].size} bytes instead of {file.size}")
    return problems


def interrupted(snapshots: list[Snapshot], trees: Collection[str]) -> list[Snapshot]:
    """The snapshots where a download is unfinished: the last changed one is partial.

    It stays as it is if a listing among `trees` says what belongs to it.
    """
    if not snapshots:
        return snapshots
    last = max(snapshots, key=lambda snapshot: snapshot.mtime)
    if last.state != "complete" or f"{last.commit}.json" in trees:
        return snapshots
    cut = Snapshot(last.commit, last.pointers, "partial", last.mtime)
    return [cut if snapshot is last else snapshot for snapshot in snapshots]
