"""`rm`, `trash` and `undo`, from the disk to the disk."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.cachemgr.journal import (
    OF_ONE_FOLDER,
    TrashEntry,
    aliases_of,
    busy_folders,
    entries,
    erase,
    fileops,
    finish_emptying,
    open_files,
    trash_place,
    undo_action,
)
from mdl.cachemgr.layout import repo_key
from mdl.cachemgr.remove.execute import Outcome, carry_out
from mdl.cachemgr.remove.inventory import protection
from mdl.cachemgr.remove.operations import Doomed, Removal, doom
from mdl.cachemgr.remove.target import find_target, may_mean
from mdl.cachemgr.scan import Folder, scan_folder, store_is_marked
from mdl.errors import BusyError, DiskError, NotFoundError, UsageError
from mdl.store import JournalAction

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache


class RemovePlan(NamedTuple):
    """What one `rm` takes. `freed` is what the disk regains when the trash is emptied."""

    target: str
    removals: dict[str, Removal]
    freed: int

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "remove": [
                {
                    "folder": name,
                    "whole": removal.whole,
                    "commits": sorted(removal.commits),
                    "files": sorted(path for _, path in removal.files),
                }
                for name, removal in self.removals.items()
            ],
            "freed": self.freed,
        }


def plan_remove(
    cache: "Cache", target: str, repo_type: str | None = None, *, casings: bool = False
) -> RemovePlan:
    """What a target means here, and what its removal gives back.

    Raises:
        NotFoundError, UsageError: it means nothing, or more than one thing.
        UsageError: it is pinned or in a lock file.
        BusyError: a download or a process is using it.
    """
    root = os.fspath(cache.root)
    marked = store_is_marked(root)
    folders = [
        scan_folder(root, summary.name, marked=marked)
        for summary in cache.survey().summaries
        # Who else leads to a shared payload decides what goes with the last of them.
        if summary.shared or may_mean(summary, target)
    ]
    real = [folder for folder in folders if folder.alias_of is None]
    removals = find_target(real, target, repo_type, casings=casings)
    by_name = {folder.name: folder for folder in real}
    for name, removal in removals.items():
        reason = _protected(cache, by_name[name], removal)
        if reason:
            raise UsageError(
                f"{target} is protected: {reason}.",
                next="Unpin it with `mdl cache unpin`, or remove the lock file, first.",
            )
    _refuse_in_use(root, removals)
    aliases = aliases_of(root)
    doomed = [
        doom(root, "", by_name[name], removal, aliases.get(name, []))
        for name, removal in removals.items()
    ]
    return RemovePlan(target, removals, gives_back(real, doomed))


def _protected(cache: "Cache", folder: Folder, removal: Removal) -> str:
    known = cache.knowledge()
    key = repo_key(folder.repo_type, folder.repo_id)
    commits = {"", *removal.commits, *(commit for commit, _ in removal.files)}
    reasons = (protection(key, commit, folder.refs_of(commit), known) for commit in commits)
    return next((reason for reason in reasons if reason), "")


def _refuse_in_use(root: str, removals: Mapping[str, Removal]) -> None:
    busy = busy_folders(root, removals)
    if busy:
        name, etag = next(iter(busy.items()))
        raise BusyError(
            f"A download into {name} is running ({etag[:12]}).", next="Try again when it is done."
        )
    for path, pid in open_files(root).items():
        name = path.split("/", 1)[0]
        if name in removals and removals[name].whole:
            raise BusyError(f"{path} is open in process {pid}.", next="Close it first.")


def gives_back(folders: Sequence[Folder], doomed: Sequence[Doomed]) -> int:
    """Bytes the disk regains: those inodes whose every name goes."""
    going: Counter[Any] = Counter()
    names: Counter[Any] = Counter()
    sizes: dict[Any, int] = {}
    by_name = {folder.name: folder for folder in folders}
    for folder in folders:
        for blob in folder.blobs.values():
            names[blob.inode] = names[blob.inode] + 1 if blob.inode[0] == "shared" else blob.links
            sizes[blob.inode] = blob.size
    freed = 0
    for one in doomed:
        folder = by_name[one.folder]
        for name in folder.blobs if one.whole else one.blobs:
            if name in folder.blobs:
                going[folder.blobs[name].inode] += 1
        freed += sum(part.size for part in folder.incomplete if one.whole or part.name in one.blobs)
    return freed + sum(sizes[inode] for inode, count in going.items() if count >= names[inode])


def apply_remove(cache: "Cache", plan: RemovePlan) -> Outcome:
    """Carry a removal out, into the trash.

    Raises:
        BusyError: a download began, or another mdl process is at work; nothing was changed.
        DiskError: there is no right to remove it, or removing it would do nothing.
    """

    def objection(folder: Folder, removal: Removal) -> str:
        return _protected(cache, folder, removal)

    with cache.exclusive() as index:
        outcome = carry_out(os.fspath(cache.root), index, "rm", plan.removals, objection)
        expire(cache)
    if outcome.action_id is None and outcome.skipped:
        reason = next(iter(outcome.skipped.values()))
        message = f"{plan.target} was left alone: {reason}."
        if reason in OF_ONE_FOLDER.values():
            raise DiskError(message, next="Remove it where it comes from, or as its owner.")
        raise BusyError(message, next="Try again when it is done.")
    return outcome


# Trash


def trash_entries(cache: "Cache") -> list[TrashEntry]:
    """What is in the trash, oldest first."""
    return entries(cache.index.actions())


def strays(cache: "Cache") -> list[str]:
    """Folders in the trash that no action of this journal made."""
    place = trash_place(cache.root).path
    known = {action.detail.get("trash") for action in cache.index.actions()}
    try:
        names = sorted(os.listdir(place))
    except OSError:
        return []
    return [path for name in names if (path := os.path.join(place, name)) not in known]


def restore(cache: "Cache", action_id: int, *, dry_run: bool = False) -> JournalAction:
    """Put back what one action moved into the trash.

    What was downloaded again meanwhile stays; its twin then stays in the trash.

    Raises:
        NotFoundError: no such action, or nothing of it is in the trash.
    """
    with cache.exclusive() as index:
        found = {entry.id for entry in entries(index.actions())}
        action = next((a for a in index.actions("done") if a.id == action_id), None)
        if action is None or action_id not in found:
            raise NotFoundError(
                f"There is nothing to restore under number {action_id}.",
                next="`mdl cache trash ls` lists what is in the trash.",
            )
        _check_trash(action)
        if not dry_run:
            undo_action(index, action_id)
        return action


def undo(cache: "Cache", *, only: int | None = None, dry_run: bool = False) -> JournalAction:
    """Revert the last action that is done.

    Args:
        only: the number it must have.

    Raises:
        NotFoundError: there is none, or its files have left the trash.
        BusyError: it is another one by now.
    """
    with cache.exclusive() as index:
        done = [action for action in index.actions() if action.state in ("done", "emptied")]
        if not done:
            raise NotFoundError(
                "There is nothing to undo.",
                next="`mdl cache trash ls` lists what can be restored.",
            )
        last = done[-1]
        if only is not None and last.id != only:
            raise BusyError(
                f"Action {only} is no longer the last one.",
                why=f"{last.kind} ({last.summary}) came after it",
                next="Look at what undo would take back now.",
            )
        if last.state == "emptied":
            raise NotFoundError(
                f"The last action ({last.kind}: {last.summary}) cannot be undone.",
                why="its files were erased from the trash.",
                next="Download them again.",
            )
        _check_trash(last)
        if not dry_run:
            undo_action(index, last.id)
        return last


def _check_trash(action: JournalAction) -> None:
    """Refuse what can no longer be taken back because somebody removed the trash by hand."""
    if action.detail.get("freed") and action.kind in ("rm", "prune"):
        path = action.detail["trash"]
        if not os.path.isdir(path):
            raise NotFoundError(
                f"The {action.kind} ({action.summary}) cannot be taken back.",
                why=f"{path} is gone, and not through `mdl cache trash empty`.",
                next="Download the files again.",
            )


def empty_trash(cache: "Cache", ids: Iterable[int], unknown: Iterable[str] = ()) -> int:
    """Erase these for good, and nothing that came since; bytes the disk regained.

    Args:
        ids: actions, as `choose` and `trash_entries` name them.
        unknown: folders, as `strays` names them.

    Raises:
        NotFoundError: one of `ids` has nothing in the trash.
    """
    with cache.exclusive():
        wanted = list(ids)
        chosen = choose_trash(cache, wanted) if wanted else []
        for entry in chosen:
            _erase(cache, entry)
        for path in set(strays(cache)).intersection(unknown):
            erase(path)
        with contextlib.suppress(OSError):  # an empty folder is in nobody's way
            fileops.remove_folder(trash_place(cache.root).path)
        return sum(entry.bytes for entry in chosen)


def choose_trash(
    cache: "Cache", ids: Sequence[int] = (), older_than: float | None = None
) -> list[TrashEntry]:
    """The entries of the trash that are meant.

    Args:
        ids: only these actions; all of them when none are given.
        older_than: only what has been there for so many seconds.

    Raises:
        NotFoundError: one of `ids` has nothing in the trash.
    """
    present = trash_entries(cache)
    unknown = set(ids) - {entry.id for entry in present}
    if unknown:
        raise NotFoundError(
            f"Nothing in the trash has the number {min(unknown)}.",
            next="`mdl cache trash ls` lists what is in the trash.",
        )
    now = time.time()
    return [
        entry
        for entry in present
        if (not ids or entry.id in ids) and (older_than is None or now - entry.at >= older_than)
    ]


def _erase(cache: "Cache", entry: TrashEntry) -> None:
    finish = "emptied" if entry.state == "done" else entry.state
    cache.index.set_action(entry.id, "emptying", then=finish)
    finish_emptying(cache.index, entry.id, entry.path, finish)


def expire(cache: "Cache") -> None:
    """Erase what has been in the trash for longer than the configuration's `trash_days`."""
    for entry in choose_trash(cache, (), cache.settings.cache.trash_days * 86400):
        _erase(cache, entry)
