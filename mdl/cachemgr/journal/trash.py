"""The trash, where removed files are kept: beside the cache root, on the same device.

Removing is then one rename, takes no space, and can be undone. The trash is not inside the root,
where `hf cache` would complain about it, unless there is no other place on that device.
"""

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.cachemgr.layout import root_id
from mdl.errors import DiskError

if TYPE_CHECKING:
    from mdl.store import JournalAction


class TrashPlace(NamedTuple):
    """A root's trash. `note` explains why it is not beside the root, if it is not."""

    path: str
    note: str = ""


class TrashEntry(NamedTuple):
    """What one action left in the trash. `bytes` is what erasing it frees."""

    id: int
    kind: str
    summary: str
    at: float
    state: str
    files: int
    bytes: int
    path: str

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "summary": self.summary,
            "at": self.at,
            "state": self.state,
            "files": self.files,
            "bytes": self.bytes,
            "path": self.path,
        }


def trash_place(root: Path) -> TrashPlace:
    """Choose the trash folder, without creating it."""
    real = Path(os.path.realpath(root))
    name = f".mdl-trash-{root_id(root)[:8]}"
    beside = real.parent / name
    if _owned_folder(beside) or (
        not os.path.lexists(beside)
        and os.access(real.parent, os.W_OK)
        and _device(real.parent) == _device(real)
    ):
        return TrashPlace(str(beside))
    return TrashPlace(
        str(real / ".locks" / name),
        f"{real.parent} is on another device or cannot be written to, so the trash is inside the"
        f" cache, in {real / '.locks' / name}, which hf ignores.",
    )


def make_place(place: TrashPlace) -> str:
    """Make a new folder for one action.

    Raises:
        DiskError: the trash cannot be written to.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    action = os.path.join(place.path, f"{stamp}-{os.urandom(4).hex()}")
    try:
        os.makedirs(place.path, mode=0o700, exist_ok=True)
        os.mkdir(action, 0o700)
    except OSError as error:
        raise DiskError(
            f"The trash {place.path} cannot be written to.",
            why=error.strerror or str(error),
            next="Nothing was changed. Check the folder's permissions and the free space.",
        ) from error
    return action


def list_entries(actions: "list[JournalAction]") -> list[TrashEntry]:
    """The actions that still have files in the trash, oldest first."""
    found = []
    for action in actions:
        path = action.detail.get("trash")
        if not path or not os.path.isdir(path):
            continue
        files, size = count_trash(path)
        if files:
            found.append(
                TrashEntry(action.id, action.kind, action.summary, action.finished or
                           action.started, action.state, files, size, path)
            )  # fmt: skip
    return found


def count_trash(path: str) -> tuple[int, int]:
    """(number of files, links and empty folders below a path, bytes that erasing it frees).

    A file with another name elsewhere frees nothing; refs, listings and manifests are not content
    and, as everywhere in mdl, are not counted.
    """
    count = size = 0
    names: dict[tuple[int, int], int] = {}
    for folder, folders, files in os.walk(path):
        count += len(files) + sum(os.path.islink(os.path.join(folder, name)) for name in folders)
        count += folder != path and not folders and not files
        for name in files:
            status = os.lstat(os.path.join(folder, name))
            if not stat.S_ISREG(status.st_mode) or _is_metadata(
                os.path.relpath(folder, path), name
            ):
                continue
            inode = (status.st_dev, status.st_ino)
            names[inode] = names.get(inode, 0) + 1
            if names[inode] == status.st_nlink:
                size += status.st_size
    return count, size


def _is_metadata(folder: str, name: str) -> bool:
    parts = folder.split("/")
    return (len(parts) > 1 and parts[1] in ("refs", "trees", ".no_exist")) or (
        parts[0] == "blobs" and name.endswith(".refs")
    )


def _device(path: Path) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return -1


def _owned_folder(path: Path) -> bool:
    """Is this a real folder that belongs to the current user?"""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return stat.S_ISDIR(status.st_mode) and mine
