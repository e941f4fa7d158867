"""Reading content without side effects on access times or the page cache."""

import contextlib
import os
from collections.abc import Callable, Iterator

CHUNK = 4 * 2**20
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


def open_quietly(path: str) -> int:
    """Open for reading, without updating the access time where that is allowed.

    Does not block on a FIFO nor follow a link; only a file's owner and root may use `O_NOATIME`.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(path, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:
        return os.open(path, flags)


def chunks(path: str, pause: Callable[[int], None] | None = None) -> Iterator[memoryview]:
    """A file's content in pieces; `pause` is called with the bytes just read, to throttle.

    Pages that were in the page cache stay there; those read from the disk are dropped again.
    The pieces share one buffer: each is valid until the next is requested.
    """
    fd = open_quietly(path)
    try:
        view = memoryview(bytearray(CHUNK))
        advise = getattr(os, "posix_fadvise", None)
        if advise is not None:
            # No read-ahead: prefetched pages would look as if they had been cached before.
            advise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        offset = 0
        while True:
            count, cached = _read(fd, view, offset)
            if count == 0:
                return
            yield view[:count]
            if not cached and advise is not None:
                advise(fd, offset, count, os.POSIX_FADV_DONTNEED)
            offset += count
            if pause is not None:
                pause(count)
    finally:
        os.close(fd)


def _read(fd: int, view: memoryview, offset: int) -> tuple[int, bool]:
    """(bytes read at an offset, whether they came from the page cache)."""
    if _NOWAIT:
        with contextlib.suppress(OSError):
            count = os.preadv(fd, [view], offset, _NOWAIT)
            if count:
                return count, True
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset), False
    os.lseek(fd, offset, os.SEEK_SET)
    return os.readv(fd, [view]), False


def same_content(first: str, second: str) -> bool:
    """Do two files hold the same bytes?"""
    if os.path.samestat(os.stat(first), os.stat(second)):
        return True
    size = os.path.getsize(first)
    if size != os.path.getsize(second):
        return False
    return _hash(first) == _hash(second)


def _hash(path: str) -> bytes:
    """Hash the content: pieces of two readings need not have equal lengths."""
    import hashlib

    digest = hashlib.blake2b()
    for chunk in chunks(path):
        digest.update(chunk)
    return digest.digest()
