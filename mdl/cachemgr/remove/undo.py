"""The trash and `undo`: list what was removed, restore it, or erase it for good."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from mdl.cachemgr.journal import (
    TrashEntry,
    erase,
    finish_emptying,
    list_entries,
    remove_folder,
    trash_place,
    undo_action,
)
from mdl.cachemgr.layout import parse_folder, repo_key
from mdl.errors import BusyError, NotFoundError
from mdl.formatting import human_size
from mdl.store import JournalAction

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache


def trash_entries(cache: "Cache") -> list[TrashEntry]:
    """What is in the trash, oldest first."""
    return list_entries(cache.index.actions())


def unknown_in_trash(cache: "Cache") -> list[str]:
    """Folders in the trash that are not from an action of this journal."""
    place = trash_place(cache.root).path
    known = {action.detail.get("trash") for action in cache.index.actions()}
    try:
        names = sorted(os.listdir(place))
    except OSError:
        return []
    return [path for name in names if (path := os.path.join(place, name)) not in known]


def restore(cache: "Cache", action_id: int, *, dry_run: bool = False) -> JournalAction:
    """Restore what one action moved into the trash.

    What has been downloaded again stays as it is; its old copy then stays in the trash.

    Raises:
        NotFoundError: there is no such action, or nothing of it is in the trash.
    """
    with cache.exclusive() as index:
        found = {entry.id for entry in list_entries(index.actions())}
        action = next((a for a in index.actions("done") if a.id == action_id), None)
        if action is None or action_id not in found:
            raise NotFoundError(
                f"There is no action {action_id} to restore.",
                next="`mdl cache trash ls` lists what is in the trash.",
            )
        _check_trash(action)
        if not dry_run:
            _bring_back(cache, action)
        return action


def undo_last(cache: "Cache", *, only: int | None = None, dry_run: bool = False) -> JournalAction:
    """Revert the last finished action.

    Args:
        only: the number it must have.

    Raises:
        NotFoundError: there is none, or its files are no longer in the trash.
        BusyError: another action has been done since.
    """
    with cache.exclusive():
        last = last_change(cache)
        if last is None:
            raise NotFoundError(
                "There is nothing to undo.",
                next="`mdl cache trash ls` lists what can be restored.",
            )
        if only is not None and last.id != only:
            raise BusyError(
                f"Action {only} is no longer the last one.",
                why=f"{last.kind} ({last.summary}) came after it",
                next="Check what undo would revert now.",
            )
        if last.state == "emptied":
            raise NotFoundError(
                f"The last action ({last.kind}: {last.summary}) cannot be undone.",
                why="its files were erased from the trash.",
                next="Download them again.",
            )
        _check_trash(last)
        if not dry_run:
            _bring_back(cache, last)
        return last


def _bring_back(cache: "Cache", action: JournalAction) -> None:
    """Undo an action; what a removal took is then left alone by prune for a while."""
    root = os.fspath(cache.root)
    places = [op["from"] for op in cache.index.operations(action.id) if op["op"] == "move"]
    undo_action(cache.index, action.id)
    if action.kind in ("rm", "prune"):
        cache.record_restored({row for place in places for row in _restored(root, place)})


def _restored(root: str, place: str) -> Iterator[tuple[str, str]]:
    """(repo_key, commit or '') of what is at a place that something was moved back to."""
    folder, *rest = os.path.relpath(place, root).split(os.sep)
    parsed = parse_folder(folder)
    if parsed is None:
        return
    key = repo_key(*parsed)
    if rest[:1] == ["snapshots"] and len(rest) > 1:
        yield key, rest[1]
    elif not rest or rest[0] == "blobs":
        yield key, ""
    if not rest:
        with contextlib.suppress(OSError):
            for commit in os.listdir(os.path.join(root, folder, "snapshots")):
                yield key, commit


def _check_trash(action: JournalAction) -> None:
    """Refuse what can no longer be reverted because the trash was deleted by hand."""
    if action.detail.get("freed") and action.kind in ("rm", "prune"):
        path = action.detail["trash"]
        if not os.path.isdir(path):
            raise NotFoundError(
                f"The {action.kind} ({action.summary}) cannot be undone.",
                why=f"{path} was deleted, and not by `mdl cache trash empty`.",
                next="Download the files again.",
            )


def empty_trash(cache: "Cache", ids: Iterable[int], unknown: Iterable[str] = ()) -> int:
    """Erase exactly these for good; return the bytes freed.

    Args:
        ids: actions, from `choose_trash` or `trash_entries`.
        unknown: folders, from `unknown_in_trash`.

    Raises:
        NotFoundError: one of `ids` has nothing in the trash.
    """
    with cache.exclusive():
        wanted = list(ids)
        chosen = choose_trash(cache, wanted) if wanted else []
        for entry in chosen:
            _erase(cache, entry)
        for path in set(unknown_in_trash(cache)).intersection(unknown):
            erase(path)
        with contextlib.suppress(OSError):  # an empty folder does no harm
            remove_folder(trash_place(cache.root).path)
        return sum(entry.bytes for entry in chosen)


def erase_removed(cache: "Cache", action_id: int | None) -> None:
    """Erase what one removal moved to the trash, unless its time there was over at once."""
    if action_id in {entry.id for entry in trash_entries(cache)}:
        empty_trash(cache, [action_id])


def choose_trash(
    cache: "Cache", ids: Sequence[int] = (), older_than: float | None = None
) -> list[TrashEntry]:
    """Select entries of the trash.

    Args:
        ids: only these actions; all when empty.
        older_than: only what has been there for this many seconds.

    Raises:
        NotFoundError: one of `ids` has nothing in the trash.
    """
    present = trash_entries(cache)
    unknown = set(ids) - {entry.id for entry in present}
    if unknown:
        raise NotFoundError(
            f"Action {min(unknown)} has nothing in the trash.",
            next="`mdl cache trash ls` lists what is in the trash.",
        )
    now = time.time()
    return [
        entry
        for entry in present
        if (not ids or entry.id in ids) and (older_than is None or now - entry.at >= older_than)
    ]


def removal_effect(cache: "Cache", size: int, *, now: bool) -> str:
    """Everything that a removal will do, to be asked before it: `Move 5.0 GB to the trash`.

    It also erases what has been in the trash for longer than the configuration says.
    """
    days = cache.settings.cache.trash_days
    expired = sum(entry.bytes for entry in choose_trash(cache, older_than=days * 86400))
    done = f"Erase {human_size(size)} for good" if now else f"Move {human_size(size)} to the trash"
    if expired:
        done += f", and erase {human_size(expired)} that has been in the trash for {days:g} days"
    return done


def last_change(cache: "Cache") -> JournalAction | None:
    """The last finished action; does not wait for a process that is changing the cache."""
    done = cache.index.actions("done", "emptied")
    return done[-1] if done else None


def _erase(cache: "Cache", entry: TrashEntry) -> None:
    finish = "emptied" if entry.state == "done" else entry.state
    cache.index.set_action(entry.id, "emptying", then=finish)
    finish_emptying(cache.index, entry.id, entry.path, finish)


def expire(cache: "Cache") -> None:
    """Erase what has been in the trash for longer than the configuration's `trash_days`."""
    for entry in choose_trash(cache, (), cache.settings.cache.trash_days * 86400):
        _erase(cache, entry)
