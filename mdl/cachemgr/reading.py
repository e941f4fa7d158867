"""Reading content without leaving traces: neither access times nor the page cache change."""

import contextlib
import os
from collections.abc import Callable, Iterator

CHUNK = 8 * 2**20


def open_quietly(path: str) -> int:
    """A descriptor for reading that does not set the access time where that is allowed.

    A FIFO or a link in a file's place is not waited on or followed; `O_NOATIME` is only for a
    file's owner and root.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(path, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:
        return os.open(path, flags)


def chunks(path: str, pause: Callable[[int], None] | None = None) -> Iterator[memoryview]:
    """A file's content, piece by piece; `pause` is told how much was read, to throttle.

    What was not in the page cache before is dropped from it again. The pieces share one buffer:
    each is valid until the next is asked for.
    """
    fd = open_quietly(path)
    try:
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        offset = 0
        advise = getattr(os, "posix_fadvise", None)
        if advise is not None:
            advise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := os.readv(fd, [buffer]):
            yield view[:count]
            if advise is not None:
                advise(fd, offset, count, os.POSIX_FADV_DONTNEED)
            offset += count
            if pause is not None:
                pause(count)
    finally:
        os.close(fd)


def same_content(first: str, second: str) -> bool:
    """Do two files hold the same bytes?"""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(first), os.stat(second)):
            return True
    if os.path.getsize(first) != os.path.getsize(second):
        return False
    one, two = chunks(first), chunks(second)
    return all(a == b for a, b in zip(one, two, strict=False))
