"""Actions as lists of small operations, written down before the first one runs.

Every operation can be performed twice and reverted twice with the same end, from whatever point
a kill left it at. So one rule recovers everything: an action that was being done, or being
undone, when its process died is reverted from its last operation to its first.

Operations (paths absolute; `temp` is a name in the action's own staging folder, so that no
half-made file is ever inside the cache):
    move      {from, to}             rename, never over anything
    share     {keep, path, temp}     make `path` another name of `keep`'s bytes
    store     {path, payload, line, text, temp, mode, made}
                                     make a blob a link into the shared store
    link      {from, to}             a further name for a file
    symlink   {text, path}           a symbolic link
    write     {path, text, old, temp}   a small file's new and former content (null: none)
    exchange  {path, other}          a link at `other` and the folder at `path` swap places
    manifest  {payload, line}        a line more in a shared payload's manifest
`folder` in a link or symlink names the repository folder whose `blobs` it is in: it is taken
back only while no snapshot there has come to need it.
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

_NO_RIGHT = "you have no right to change it"
# What the system says of one folder, and what that means for it.
OF_ONE_FOLDER = {
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EBUSY: "something is mounted on it",
    errno.EXDEV: "it is on another disk than the cache, or in a layer that a container's image"
    " brought, where removing it would free nothing",
}


def perform_all(ops: Sequence[Op]) -> None:
    """Perform operations in order; a failure leaves the rest undone and is raised."""
    for op in ops:
        _PERFORM[op["op"]](op)


def perform_or_leave(ops: Sequence[Op]) -> str:
    """Perform all of a folder's operations or none; why it has to be left alone, or ''.

    What concerns the whole disk, such as no room, is raised; nothing is taken back then.
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


def revert_all(ops: Sequence[Op], *, apart: bool = False) -> None:
    """Take operations back, last first, as far as each of them happened.

    Args:
        apart: give bytes that were joined a copy each again. Recovery does not: it could need
            more room than there is, and either way every file has its content.
    """
    needed = _Needed()
    for op in reversed(ops):
        if op["op"] == "share":
            _unshare(op, apart=apart)
        elif "folder" not in op or _made_name(op) not in needed.of(op["folder"]):
            _REVERT[op["op"]](op)


def _made_name(op: Op) -> str:
    return os.path.basename(str(op["to"] if op["op"] == "link" else op["path"]))


class _Needed:
    """The blobs that a folder's snapshots name, read when first asked for."""

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
    """Bring actions that a killed process left half-done to one side; what was done, in words."""
    said = []
    for action in index.actions("running", "undoing"):
        revert_all(index.operations(action.id))
        index.set_action(action.id, "reverted" if action.state == "running" else "undone")
        drop_empty(action.detail.get("trash"))
        said.append(f"An interrupted {action.kind} was taken back: {action.summary}.")
    for action in index.actions("emptying"):
        finish_emptying(index, action.id, action.detail["trash"], action.detail["then"])
        said.append("An interrupted emptying of the trash was finished.")
    return said


def finish_emptying(index: CacheIndex, action_id: int, trash: str, then: str) -> None:
    """Erase an action's trash, for the first time or again; it can no longer be undone."""
    erase(trash)
    index.forget_operations(action_id)
    index.set_action(action_id, then)


def undo_action(index: CacheIndex, action_id: int) -> None:
    """Revert an action that is done."""
    ops = index.operations(action_id)
    _check_room(ops)
    index.set_action(action_id, "undoing")
    revert_all(ops, apart=True)
    index.set_action(action_id, "undone")
    (action,) = [action for action in index.actions() if action.id == action_id]
    drop_empty(action.detail.get("trash"))


def _check_room(ops: Sequence[Op]) -> None:
    """Parting joined bytes takes room: refuse before anything is changed.

    Raises:
        DiskError: there is less than it takes.
    """
    joined = [op for op in ops if op["op"] == "share" and _same_file(op["keep"], op["path"])]
    if not joined:
        return
    wanted = sum(os.path.getsize(op["path"]) for op in joined)
    free = shutil.disk_usage(os.path.dirname(joined[0]["path"])).free
    if wanted > free:
        raise DiskError(
            "There is not enough room to take this back.",
            why=f"parting what was joined takes {wanted} bytes, {free} are free.",
            next="Free some room first; nothing was changed.",
        )


def erase(path: str) -> None:
    """Delete a folder of the trash and all below it; links are removed, never followed."""
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
    """Remove an action's trash folder as far as nothing is in it."""
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
    """Return a file or folder to its place; what was made there meanwhile stays, and is joined."""
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
    """A payload of the shared store moves under huggingface_hub's own lock for it."""
    return payload_lock(op["payload"]) if "payload" in op else contextlib.nullcontext()


def _same_file(first: str, second: str) -> bool:
    try:
        return os.path.samestat(os.lstat(first), os.lstat(second))
    except OSError:
        return False


def _clear(temporary: str) -> str:
    """A name in the staging folder that is free, with the folder there."""
    fileops.make_folder(os.path.dirname(temporary))
    fileops.remove_file(temporary)
    return temporary


def _share(op: Op) -> None:
    if _same_file(op["keep"], op["path"]) or not fileops.lexists(op["path"]):
        return
    fileops.hard_link(op["keep"], _clear(op["temp"]))
    fileops.replace(op["temp"], op["path"])


def _unshare(op: Op, *, apart: bool) -> None:
    fileops.remove_file(op["temp"])
    if apart and _same_file(op["keep"], op["path"]):
        try:
            shutil.copy2(op["path"], _clear(op["temp"]))
            fileops.replace(op["temp"], op["path"])
        finally:
            fileops.remove_file(op["temp"])


def _store(op: Op) -> None:
    """Follow huggingface_hub's order: the manifest's line is synced before the link appears."""
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
    """Remove the empty folders that taking something back leaves, the repository's last."""
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
    """A line whose link is gone is ignored by every reader; huggingface_hub drops it in time."""


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
