"""Actions as lists of small operations, journalled before the first one runs.

Performing or reverting an operation is idempotent, wherever a kill interrupted it. So one rule
recovers everything: an action that was being done or undone when its process died is reverted,
from its last operation to its first.

Operations (paths are absolute; `temp` is a name in the action's own staging folder, so that no
unfinished file is ever inside the cache):
    move      {from, to}             rename, never over anything
    share     {keep, path, temp}     make `path` another name of `keep`'s bytes
    store     {path, payload, line, text, temp, mode, made}
                                     make a blob a link into the shared store
    link      {from, to}             another name for a file
    symlink   {text, path}           a symbolic link
    write     {path, text, old, temp}   a small file's new and former content (null: none)
    exchange  {path, other}          a link at `other` and the folder at `path` swap places
    manifest  {payload, line}        one more line in a shared payload's manifest
`folder` in a link or symlink names the repository folder whose `blobs` it is in: it is reverted
only while no snapshot there needs it.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from mdl.cachemgr.journal import fileops
from mdl.cachemgr.journal.shared_blobs import (
    MANIFEST,
    add_reference,
    append_reference,
    payload_lock,
    still_linked,
)
from mdl.cachemgr.layout import parse_folder
from mdl.errors import DiskError
from mdl.store import CacheIndex

Op = dict[str, Any]

_NOT_PERMITTED = "you do not have permission to change it"
# Errors that concern a single folder, and what they mean for it.
OF_ONE_FOLDER = {
    errno.EACCES: _NOT_PERMITTED,
    errno.EPERM: _NOT_PERMITTED,
    errno.EBUSY: "something is mounted on it",
    errno.EXDEV: "it is on another disk than the cache, or in a layer of a container image,"
    " where removing it would free nothing",
}


def perform_all(ops: Sequence[Op]) -> None:
    """Perform operations in order; a failure is raised, and the rest are not performed."""
    for op in ops:
        _PERFORM[op["op"]](op)


def perform_or_leave(ops: Sequence[Op]) -> str:
    """Perform all of a folder's operations or none; return why it must be left alone, or ''.

    Errors that concern the whole disk, such as a full one, are raised; nothing is reverted then.
    """
    try:
        perform_all(ops)
    except OSError as error:
        reason = OF_ONE_FOLDER.get(error.errno or 0)
        if reason is None:
            raise
        revert_all(ops)
        return reason
    return ""


def revert_all(ops: Sequence[Op], *, unshare: bool = False) -> None:
    """Revert operations, last first, as far as each was performed.

    Args:
        unshare: give files that share their bytes separate copies again. Recovery does not: the
            disk may be too full, and every file has its content either way.
    """
    needed = _Needed()
    for op in reversed(ops):
        if op["op"] == "share":
            _revert_share(op, unshare=unshare)
        elif "folder" not in op or _made_name(op) not in needed.of(op["folder"]):
            _REVERT[op["op"]](op)


def _made_name(op: Op) -> str:
    return os.path.basename(str(op["to"] if op["op"] == "link" else op["path"]))


class _Needed:
    """The blobs that a folder's snapshots name, read when first needed."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def of(self, folder: str) -> set[str]:
        if folder not in self._names:
            names: set[str] = set()
            for where, _, files in os.walk(os.path.join(folder, "snapshots")):
                for name in files:
                    with contextlib.suppress(OSError):
                        names.add(os.path.basename(os.readlink(os.path.join(where, name))))
            self._names[folder] = names
        return self._names[folder]


def recover(index: CacheIndex) -> list[str]:
    """Finish or revert the actions that a killed process left unfinished; a sentence for each."""
    notes = []
    for action in index.actions("running", "undoing"):
        revert_all(index.operations(action.id))
        index.set_action(action.id, "reverted" if action.state == "running" else "undone")
        drop_empty(action.detail.get("trash"))
        notes.append(f"An interrupted {action.kind} was reverted: {action.summary}.")
    for action in index.actions("emptying"):
        finish_emptying(index, action.id, action.detail["trash"], action.detail["then"])
        notes.append("An interrupted emptying of the trash was finished.")
    return notes


def finish_emptying(index: CacheIndex, action_id: int, trash: str, then: str) -> None:
    """Erase an action's trash, or finish erasing it; the action can no longer be undone."""
    erase(trash)
    index.forget_operations(action_id)
    index.set_action(action_id, then)


def undo_action(index: CacheIndex, action_id: int) -> None:
    """Revert a finished action."""
    ops = index.operations(action_id)
    _check_space(ops)
    index.set_action(action_id, "undoing")
    revert_all(ops, unshare=True)
    index.set_action(action_id, "undone")
    (action,) = [action for action in index.actions() if action.id == action_id]
    drop_empty(action.detail.get("trash"))


def _check_space(ops: Sequence[Op]) -> None:
    """Check that there is space for separate copies, before anything is changed.

    Raises:
        DiskError: there is not.
    """
    shared = [op for op in ops if op["op"] == "share" and _same_file(op["keep"], op["path"])]
    if not shared:
        return
    needed = sum(os.path.getsize(op["path"]) for op in shared)
    free = shutil.disk_usage(os.path.dirname(shared[0]["path"])).free
    if needed > free:
        raise DiskError(
            "There is not enough disk space to undo this.",
            why=f"separate copies of the shared files take {needed} bytes; {free} are free.",
            next="Free some space first; nothing was changed.",
        )


def erase(path: str) -> None:
    """Delete a folder of the trash and everything in it; links are removed, never followed."""
    try:
        with os.scandir(path) as entries:
            found = list(entries)
    except FileNotFoundError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            erase(entry.path)
        else:
            fileops.remove_file(entry.path)
    fileops.remove_folder(path)


def drop_empty(path: str | None) -> None:
    """Remove the empty folders of an action's trash."""
    if not path:
        return
    for folder, _, _ in os.walk(path, topdown=False):
        fileops.remove_folder(folder)


def _move(op: Op) -> None:
    if fileops.lexists(op["from"]) and not fileops.lexists(op["to"]):
        fileops.make_folder(os.path.dirname(op["to"]))
        with _guard(op):
            fileops.rename_new(op["from"], op["to"])


def _move_back(op: Op) -> None:
    if not fileops.lexists(op["to"]):
        return
    with _guard(op):
        _put_back(op["to"], op["from"])


def _put_back(kept: str, place: str) -> None:
    """Move a file or folder back; what was made in its place meanwhile stays, and is merged."""
    if not fileops.lexists(place):
        fileops.make_folder(os.path.dirname(place))
        with contextlib.suppress(FileExistsError):
            fileops.rename_new(kept, place)
            return
    if (
        os.path.isdir(kept)
        and os.path.isdir(place)
        and not fileops.is_link(kept)
        and not fileops.is_link(place)
    ):
        for name in os.listdir(kept):
            _put_back(os.path.join(kept, name), os.path.join(place, name))
        fileops.remove_folder(kept)


def _guard(op: Op) -> contextlib.AbstractContextManager[Any]:
    """Payloads of the shared store are moved under huggingface_hub's lock for them."""
    return payload_lock(op["payload"]) if "payload" in op else contextlib.nullcontext()


def _same_file(first: str, second: str) -> bool:
    try:
        return os.path.samestat(os.lstat(first), os.lstat(second))
    except OSError:
        return False


def _clear(temporary: str) -> str:
    """Free a name in the staging folder, and make the folder if it is missing."""
    fileops.make_folder(os.path.dirname(temporary))
    fileops.remove_file(temporary)
    return temporary


def _share(op: Op) -> None:
    if _same_file(op["keep"], op["path"]) or not fileops.lexists(op["path"]):
        return
    fileops.hard_link(op["keep"], _clear(op["temp"]))
    fileops.replace(op["temp"], op["path"])


def _revert_share(op: Op, *, unshare: bool) -> None:
    fileops.remove_file(op["temp"])
    if unshare and _same_file(op["keep"], op["path"]):
        try:
            shutil.copy2(op["path"], _clear(op["temp"]))
            fileops.replace(op["temp"], op["path"])
        finally:
            fileops.remove_file(op["temp"])


def _store(op: Op) -> None:
    """Follow huggingface_hub's order: the manifest line is synced before the link appears."""
    if fileops.is_link(op["path"]) or not fileops.lexists(op["path"]):
        return
    with payload_lock(op["payload"]):
        append_reference(op["payload"], op["line"])
        if not fileops.lexists(op["payload"]):
            fileops.hard_link(op["path"], op["payload"])
            fileops.set_mode(op["payload"], op["mode"])
        fileops.soft_link(op["text"], _clear(op["temp"]))
        fileops.replace(op["temp"], op["path"])


def _unstore(op: Op) -> None:
    fileops.remove_file(op["temp"])
    with payload_lock(op["payload"]):
        if fileops.is_link(op["path"]) and os.readlink(op["path"]) == op["text"]:
            fileops.hard_link(op["payload"], _clear(op["temp"]))
            fileops.replace(op["temp"], op["path"])
        if op["made"] and not still_linked(op["root"], op["payload"]):
            fileops.remove_file(op["payload"])
            fileops.remove_file(f"{op['payload']}{MANIFEST}")


def _link(op: Op) -> None:
    if fileops.lexists(op["from"]) and not fileops.lexists(op["to"]):
        fileops.make_folder(os.path.dirname(op["to"]))
        with contextlib.suppress(FileExistsError):
            fileops.hard_link(op["from"], op["to"])


def _unlink(op: Op) -> None:
    if _same_file(op["from"], op["to"]):
        fileops.remove_file(op["to"])
        _tidy(os.path.dirname(op["to"]))


def _tidy(folder: str) -> None:
    """Remove the empty folders that reverting leaves, up to the repository's."""
    while fileops.remove_folder(folder):
        if parse_folder(os.path.basename(folder)) or ".mdl-trash" in folder:
            return
        folder = os.path.dirname(folder)


def _symlink(op: Op) -> None:
    if not fileops.lexists(op["path"]):
        fileops.make_folder(os.path.dirname(op["path"]))
        with contextlib.suppress(FileExistsError):  # a download made it just now
            fileops.soft_link(op["text"], op["path"])


def _unsymlink(op: Op) -> None:
    if fileops.is_link(op["path"]) and os.readlink(op["path"]) == op["text"]:
        fileops.remove_file(op["path"])
        _tidy(os.path.dirname(op["path"]))


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


def _write(op: Op) -> None:
    if _read(op["path"]) == op["old"]:
        fileops.make_folder(os.path.dirname(op["path"]))
        fileops.write_file(op["path"], op["text"].encode(), _clear(op["temp"]))


def _unwrite(op: Op) -> None:
    fileops.remove_file(op["temp"])
    if _read(op["path"]) != op["text"]:
        return
    if op["old"] is None:
        fileops.remove_file(op["path"])
        _tidy(os.path.dirname(op["path"]))
    else:
        fileops.write_file(op["path"], op["old"].encode(), _clear(op["temp"]))


def _exchange(op: Op) -> None:
    if fileops.is_link(op["other"]) and not fileops.is_link(op["path"]):
        fileops.exchange(op["path"], op["other"])


def _exchange_back(op: Op) -> None:
    if (
        fileops.is_link(op["path"])
        and not fileops.is_link(op["other"])
        and fileops.lexists(op["other"])
    ):
        fileops.exchange(op["path"], op["other"])


def _manifest(op: Op) -> None:
    add_reference(op["payload"], op["line"])


def _leave_manifest(op: Op) -> None:
    """Leave it: readers ignore a line whose link is gone, and huggingface_hub drops it in time."""


_PERFORM: dict[str, Callable[[Op], None]] = {
    "move": _move,
    "share": _share,
    "store": _store,
    "link": _link,
    "symlink": _symlink,
    "write": _write,
    "exchange": _exchange,
    "manifest": _manifest,
}
_REVERT: dict[str, Callable[[Op], None]] = {
    "move": _move_back,
    "store": _unstore,
    "link": _unlink,
    "symlink": _unsymlink,
    "write": _unwrite,
    "exchange": _exchange_back,
    "manifest": _leave_manifest,
}
