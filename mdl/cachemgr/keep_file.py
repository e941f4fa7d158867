"""What protects a root, kept beside it: every user and every MDL_HOME of that root sees it.

`.mdl-keep-<id>/keep.json` holds pins, registered lock files and what was just restored; the daemon
locks `daemon.lock` in the same folder. Whoever may write to the root may write there. Each home's
index holds its own records too, so where the folder cannot be written nothing is lost.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from mdl.cachemgr.layout import root_id

_LARGEST = 16 << 20
# section → what the fields of a row are
_ROWS: dict[str, tuple[type, ...]] = {
    "pins": (str, str, str, float),  # repo_key, revision or '', repo_id, when
    "locks": (str, str, str, str),  # path, repo_key, commit, MDL_HOME
    "restored": (str, str, float),  # repo_key, commit or '', when
}
Sections = dict[str, list[list[Any]]]


def shared_folder(root: str, *, create: bool = False) -> str | None:
    """The folder beside a root, or in its `.locks` where that is a mount point; `None` for none."""
    real = os.path.realpath(root)
    name = f".mdl-keep-{root_id(root)[:8]}"
    places = [os.path.join(os.path.dirname(real), name), os.path.join(real, ".locks", name)]
    found = next((place for place in places if _trusted(place, real)), None)
    if found is not None or not create or not os.path.isdir(real):
        return found
    for place in places:
        with contextlib.suppress(OSError):
            _make(place, real)
            return place
    return None


def _trusted(place: str, root: str) -> bool:
    """Is it a real folder, made by someone whose word counts for this root?"""
    try:
        status, owner = os.lstat(place), os.stat(root)
    except OSError:
        return False
    shared = bool(owner.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    mine = not hasattr(os, "getuid") or status.st_uid in (os.getuid(), owner.st_uid, 0)
    return stat.S_ISDIR(status.st_mode) and (mine or shared)


def _make(place: str, root: str) -> None:
    os.makedirs(place, exist_ok=True)
    _like(place, root, 0o7777)


def _like(path: str, root: str, bits: int) -> None:
    """Give a path the root's group and its rights: who may write there may write here."""
    status = os.stat(root)
    with contextlib.suppress(OSError, AttributeError):
        os.chown(path, -1, status.st_gid)
    with contextlib.suppress(OSError):
        os.chmod(path, stat.S_IMODE(status.st_mode) & bits)


def read_keep(root: str) -> Sections:
    """The rows that are well formed; the file is written by others too."""
    folder = shared_folder(root)
    return _read(os.path.join(folder, "keep.json")) if folder else {name: [] for name in _ROWS}


def _read(path: str) -> Sections:
    from mdl.cachemgr.scan import read_small

    found: Any = None
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(read_small(path, _LARGEST) or b"{}")
    sections = found if isinstance(found, dict) else {}
    return {name: [row for row in _list(sections.get(name)) if _fits(row, kinds)]
            for name, kinds in _ROWS.items()}  # fmt: skip


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _fits(row: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(row, list) and len(row) == len(kinds) and all(map(isinstance, row, kinds))


def update_keep(root: str, change: Callable[[Sections], None]) -> bool:
    """Change the file under its lock; false where it cannot be written.

    Args:
        change: gets the sections, and changes their rows.
    """
    folder = shared_folder(root, create=True)
    if folder is None:
        return False
    path = os.path.join(folder, "keep.json")
    temporary = f"{path}.{os.getpid()}"
    try:
        with _locked(folder):
            sections = _read(path)
            change(sections)
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(sections, file)
                file.flush()
                os.fsync(file.fileno())
            _like(temporary, os.path.realpath(root), 0o666)
            os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        return False
    return True


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: the last writer wins
        yield
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
