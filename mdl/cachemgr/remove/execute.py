"""Carry a removal out: wait for quiet, lock, read again, journal, move, look again.

The plan was made without locks; what is really removed is decided here, under them. A folder that
is in use, or that may not be changed, is left alone and named; the others are not affected.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.cachemgr.journal import (
    DownloadLocks,
    Op,
    aliases_of,
    count_trash,
    drop_empty,
    make_place,
    perform_all,
    perform_or_leave,
    remove_dangling_aliases,
    revert_all,
    trash_place,
    wait_until_quiet,
)
from mdl.cachemgr.layout import parse_folder
from mdl.cachemgr.remove.operations import (
    FolderRemoval,
    Removal,
    compose_removal,
    look_again,
    payload_ops,
    summary_of,
    unlinked_payloads,
    unreferenced_payloads,
)
from mdl.cachemgr.scan import Folder, scan_folder, store_is_marked
from mdl.store import CacheIndex

# How many folders' download locks are held at the same time: each lock is an open file.
_BATCH = 32

# Why a folder, as just read under its locks, must not lose this after all, or ''.
Objection = Callable[[Folder, Removal], str]


@dataclass(frozen=True)
class Outcome:
    """The result of a removal.

    Attributes:
        action_id: the number in the journal; `None` when there was nothing to do.
        freed: bytes that emptying the trash will free.
        removed: what was removed, by folder.
        skipped: folder → why it was left alone.
        trash: the folder that holds what was removed.
        note: about where the trash is.
    """

    action_id: int | None
    freed: int
    removed: Mapping[str, Removal]
    skipped: Mapping[str, str]
    trash: str | None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "action": self.action_id,
            "freed": self.freed,
            "trash": self.trash,
            "skipped": dict(self.skipped),
        }


class _Run:
    """One removal in progress."""

    def __init__(self, root: str, index: CacheIndex, removals: Mapping[str, Removal]) -> None:
        self.root = root
        self.index = index
        self.removals = removals
        self.marked = store_is_marked(root)
        self.aliases = aliases_of(root)
        self.skipped: dict[str, str] = {}
        self.removed: list[FolderRemoval] = []
        self.performed: list[Op] = []

    def batch(self, action_id: int, trash: str, names: list[str], objection: Objection) -> None:
        locks = DownloadLocks(self.root)
        try:
            ready = []
            for name in names:
                etag = locks.take(name)
                if etag is not None:
                    self.skipped[name] = f"a download is running ({etag[:12]})"
                    continue
                folder = scan_folder(self.root, name, marked=self.marked)
                removal = self.removals[name]
                reason = objection(folder, removal)
                if reason:
                    self.skipped[name] = reason
                    continue
                aliases = self.aliases.get(name, [])
                ready.append(compose_removal(self.root, trash, folder, removal, aliases))
            self.index.add_operations(action_id, [op for one in ready for op in one.ops])
            for one in ready:
                self.performed += one.ops
                reason = perform_or_leave(one.ops)
                if reason:
                    self.skipped[one.folder] = reason
                else:
                    self.removed.append(one)
        finally:
            locks.release()

    def payloads(self, action_id: int, trash: str, wanted: frozenset[str]) -> None:
        """Remove the shared payloads that no link points to any more, and those of `wanted`."""
        losing = unreferenced_payloads(self.root, wanted)
        if any(one.payloads for one in self.removed):
            folders = {
                name: scan_folder(self.root, name, marked=self.marked)
                for name in os.listdir(self.root)
                if parse_folder(name)
            }
            losing |= unlinked_payloads(self.root, self.removed, folders)
        ops = payload_ops(self.root, trash, losing)
        if ops:
            self.index.add_operations(action_id, ops)
            self.performed += ops
            perform_all(ops)


def carry_out(
    root: str,
    index: CacheIndex,
    kind: str,
    removals: Mapping[str, Removal],
    objection: Objection,
    payloads: frozenset[str] = frozenset(),
) -> Outcome:
    """Move everything requested into the trash, as one action of the journal.

    The caller holds the root's mutex, and has recovered unfinished actions.

    Args:
        removals: by folder name.
        payloads: payloads of the shared store to remove too, if still nothing references them.

    Raises:
        DiskError: the trash cannot be created; nothing was changed.
        OSError: an operation failed; everything was reverted.
    """
    if not removals and not payloads:  # the root may not even exist
        return Outcome(None, 0, {}, {}, None)
    remove_dangling_aliases(root)
    watched = [name for name in removals if name != "blobs"]
    skipped = dict.fromkeys(wait_until_quiet(root, watched), "a download is writing to it")
    names = sorted(name for name in removals if name not in skipped)
    if not names and not payloads:
        return Outcome(None, 0, {}, skipped, None)
    place = trash_place(Path(root))
    trash = make_place(place)
    run = _Run(root, index, removals)
    action_id = index.begin_action(kind, summary_of(removals), {"trash": trash}, [])
    try:
        for start in range(0, len(names), _BATCH):
            run.batch(action_id, trash, names[start : start + _BATCH], objection)
        run.payloads(action_id, trash, payloads)
        revert_all(look_again(root, run.removed))
    except BaseException:
        revert_all(run.performed)
        index.set_action(action_id, "reverted")
        drop_empty(trash)
        raise
    skipped.update(run.skipped)
    removed = {name: removals[name] for name in names if name not in skipped}
    _, freed = count_trash(trash)
    gone = any(os.path.lexists(op["to"]) for op in run.performed)
    index.set_action(
        action_id, "done" if gone else "reverted", summary=summary_of(removed), freed=freed
    )
    if not gone:
        drop_empty(trash)
    return Outcome(action_id if gone else None, freed, removed, skipped, trash, place.note)
