"""Files of the cache that other processes have open or mapped, as far as `/proc` tells."""

import contextlib
import os
from collections.abc import Iterator, Mapping

from mdl.cachemgr.scan import Folder, content_path


def list_open_files(root: str) -> dict[str, int]:
    """Path relative to the root → a process that has it open or mapped, as far as /proc shows."""
    real = os.path.realpath(root) + "/"
    found: dict[str, int] = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return found
    for pid in pids:
        if pid == os.getpid():
            continue
        for path in _paths_of(pid):
            if path.startswith(real):
                found.setdefault(path[len(real) :], pid)
    return found


def _paths_of(pid: int) -> Iterator[str]:
    """Every file a process has open or mapped; nothing where that is not permitted."""
    try:
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(fd.path)
    except OSError:
        return
    try:
        with open(f"/proc/{pid}/maps", errors="surrogateescape") as maps:
            for line in maps:
                start = line.find("/")
                if start > 0:
                    yield line[start:].rstrip("\n")
    except OSError:
        return


def open_revisions(folder: Folder, opened: Mapping[str, int]) -> dict[str, int]:
    """Commit → a process that has one of the revision's files open.

    Args:
        opened: as `list_open_files` gives it.
    """
    found: dict[str, int] = {}
    for snapshot in folder.snapshots:
        for pointer in snapshot.pointers:
            pid = opened.get(_content_of(folder, pointer.blob)) if pointer.blob else None
            if pid is not None:
                found[snapshot.commit] = pid
                break
    return found


def _content_of(folder: Folder, blob: str) -> str:
    """The path of a blob's content, relative to the root."""
    return content_path("", folder.name, folder.blobs[blob]).lstrip("/")
