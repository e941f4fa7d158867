"""Actions as lists of small operations, written down before the first one runs.

Every operation can be performed twice and reverted twice with the same end, from whatever point
a kill left it at. So one rule recovers everything: an action that was being done, or being
undone, when its process died is reverted from its last operation to its first.

Operations (paths absolute):
    move      {from, to}        rename, never over anything
    share     {keep, path}      make `path` another name of `keep`'s bytes
    link      {from, to}        a further name for a file
    symlink   {text, path}      a symbolic link
    write     {path, text, old} a small file's new and former content (`null`: it was not there)
    mkdir     {path}
    exchange  {path, other}     a link at `other` and the folder at `path` swap places
    manifest  {payload, line}   a line more in a shared payload's manifest
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from mdl.cachemgr import fileops
from mdl.cachemgr.locks import is_link
from mdl.cachemgr.sharedstore import add_reference, payload_lock
from mdl.store.cacheindex import CacheIndex

Op = dict[str, Any]


def perform_all(ops: Sequence[Op]) -> None:
    """Perform operations in order; a failure leaves the rest undone and is raised."""
    for op in ops:
        _PERFORM[op["op"]](op)


def revert_all(ops: Sequence[Op]) -> None:
    """Take operations back, last first, as far as each of them happened."""
    for op in reversed(ops):
        _REVERT[op["op"]](op)


def run_action(
    index: CacheIndex, kind: str, summary: str, detail: dict[str, Any], ops: Sequence[Op]
) -> int:
    """Journal and perform an action; when an operation fails, revert it and raise.

    The caller holds the root's mutex and marks the action done when its own after-care is.
    """
    action_id = index.begin_action(kind, summary, detail, ops)
    try:
        perform_all(ops)
    except BaseException:
        revert_all(ops)
        index.set_action(action_id, "reverted")
        _drop_empty(detail.get("trash"))
        raise
    return action_id


def recover(index: CacheIndex) -> list[str]:
    """Bring actions that a killed process left half-done to one side; what was done, in words."""
    said = []
    for action in index.actions("running", "undoing"):
        revert_all(index.operations(action.id))
        index.set_action(action.id, "reverted" if action.state == "running" else "undone")
        _drop_empty(action.detail.get("trash"))
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
    index.set_action(action_id, "undoing")
    revert_all(index.operations(action_id))
    index.set_action(action_id, "undone")
    (action,) = [action for action in index.actions() if action.id == action_id]
    _drop_empty(action.detail.get("trash"))


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


def _drop_empty(path: str | None) -> None:
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
    if os.path.isdir(kept) and os.path.isdir(place) and not is_link(kept) and not is_link(place):
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


def _share(op: Op) -> None:
    if _same_file(op["keep"], op["path"]) or not fileops.lexists(op["path"]):
        return
    temporary = fileops.temporary_beside(op["path"])
    fileops.hard_link(op["keep"], temporary)
    fileops.replace(temporary, op["path"])


def _unshare(op: Op) -> None:
    """Give a shared name its own copy again."""
    if not _same_file(op["keep"], op["path"]):
        return
    temporary = fileops.temporary_beside(op["path"])
    try:
        shutil.copy2(op["path"], temporary)
        fileops.replace(temporary, op["path"])
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _link(op: Op) -> None:
    if fileops.lexists(op["from"]) and not fileops.lexists(op["to"]):
        fileops.make_folder(os.path.dirname(op["to"]))
        fileops.hard_link(op["from"], op["to"])


def _unlink(op: Op) -> None:
    if _same_file(op["from"], op["to"]):
        fileops.remove_file(op["to"])


def _symlink(op: Op) -> None:
    if not fileops.lexists(op["path"]):
        fileops.make_folder(os.path.dirname(op["path"]))
        fileops.soft_link(op["text"], op["path"])


def _unsymlink(op: Op) -> None:
    if is_link(op["path"]) and os.readlink(op["path"]) == op["text"]:
        fileops.remove_file(op["path"])


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write(op: Op) -> None:
    if _read(op["path"]) == op["old"]:
        fileops.make_folder(os.path.dirname(op["path"]))
        fileops.write_file(op["path"], op["text"].encode("utf-8", "surrogateescape"))


def _unwrite(op: Op) -> None:
    if _read(op["path"]) != op["text"]:
        return
    if op["old"] is None:
        fileops.remove_file(op["path"])
    else:
        fileops.write_file(op["path"], op["old"].encode("utf-8", "surrogateescape"))


def _mkdir(op: Op) -> None:
    fileops.make_folder(op["path"])


def _rmdir(op: Op) -> None:
    fileops.remove_folder(op["path"])


def _exchange(op: Op) -> None:
    if is_link(op["other"]) and not is_link(op["path"]):
        fileops.exchange(op["path"], op["other"])


def _exchange_back(op: Op) -> None:
    if is_link(op["path"]) and not is_link(op["other"]) and fileops.lexists(op["other"]):
        fileops.exchange(op["path"], op["other"])


def _manifest(op: Op) -> None:
    add_reference(op["payload"], op["line"])


def _leave_manifest(op: Op) -> None:
    """A line whose link is gone is ignored by every reader; huggingface_hub drops it in time."""


_PERFORM: dict[str, Callable[[Op], None]] = {
    "move": _move,
    "share": _share,
    "link": _link,
    "symlink": _symlink,
    "write": _write,
    "mkdir": _mkdir,
    "exchange": _exchange,
    "manifest": _manifest,
}
_REVERT: dict[str, Callable[[Op], None]] = {
    "move": _move_back,
    "share": _unshare,
    "link": _unlink,
    "symlink": _unsymlink,
    "write": _unwrite,
    "mkdir": _rmdir,
    "exchange": _exchange_back,
    "manifest": _leave_manifest,
}
