"""Cheap checks of the disk: change stamps, small files, the shared store's marker."""

import os
import stat
from collections.abc import Iterable

from mdl.cachemgr.layout import STORE_MARKER
from mdl.cachemgr.scan.content import open_quietly

_MAX_REF_BYTES = 256
_POSIX = os.name == "posix"
# Two changes within one tick of the file system's clock get the same stamp: a folder that changed
# this shortly before it was read may have changed again since, and is read again next time.
_TICK_NS = 50_000_000


def store_is_marked(root: str) -> bool:
    """Is `<root>/blobs` huggingface_hub's shared blob store, in the layout known here?"""
    store = os.path.join(root, "blobs")
    try:
        if not stat.S_ISDIR(os.lstat(store).st_mode):
            return False
        return read_small(os.path.join(store, STORE_MARKER)) == b"1\n"
    except OSError:
        return False


def read_small(path: str, limit: int = _MAX_REF_BYTES) -> bytes | None:
    """The content of a small regular file; `None` for a link, a FIFO, or anything larger."""
    fd = open_quietly(path)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        data = bytearray()
        while chunk := os.read(fd, limit + 1 - len(data)):
            data += chunk
            if len(data) > limit:
                return None
        return bytes(data)
    finally:
        os.close(fd)


def change_stamp(status: os.stat_result) -> int:
    """A number, in nanoseconds, that changes whenever a folder's entries do.

    ctime, because restoring or touching the mtime does not reset it; mtime on Windows, where
    ctime is the time of creation.
    """
    return status.st_ctime_ns if _POSIX else status.st_mtime_ns


def trustworthy(probes: Iterable[tuple[str, int]], before: int) -> bool:
    """Will these stamps, read at `before` (nanoseconds), show the next change?"""
    return all(stamp < before - _TICK_NS for _, stamp in probes)
