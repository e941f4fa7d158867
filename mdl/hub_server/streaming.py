"""The bytes of a file, from the disk or while they arrive, as asynchronous iterators."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from mdl.cachemgr.fill import BlobFill, Fetched
from mdl.errors import VerificationError

CHUNK = 1 << 20
_STALLED = 8.0  # seconds without progress after which a reader goes its own way
_AHEAD = 16 << 20  # bytes before a download gets there; further is fetched, not waited for
_END = object()
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
Straight = Callable[[int], AbstractContextManager[Fetched]]


async def local_chunks(path: str, first: int, stop: int) -> AsyncGenerator[bytes, None]:
    """A file that is here. Unlinked meanwhile, it is read to its end all the same."""
    fd = os.open(path, os.O_RDONLY)
    try:
        while first < stop:
            size = min(CHUNK, stop - first)
            chunk = os.pread(fd, size, first) if stop <= CHUNK else await asyncio.to_thread(
                os.pread, fd, size, first
            )  # fmt: skip
            if not chunk:
                raise ConnectionAbortedError("the file has become shorter")
            first += len(chunk)
            yield chunk
    finally:
        os.close(fd)


async def filling_chunks(
    fill: BlobFill, first: int, stop: int, in_thread: InThread, straight: Straight
) -> AsyncGenerator[bytes, None]:
    """A file that is on its way, as far as it has come; else straight from the Hub.

    Raises:
        VerificationError: what came is not the file.
    """
    at = first
    if at <= fill.readable + _AHEAD:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        fd: int | None = None
        try:
            with fill.listening(lambda: loop.call_soon_threadsafe(changed.set)):
                moved = time.monotonic()
                while at < stop and fill.error is None and time.monotonic() - moved < _STALLED:
                    ready = min(fill.readable, stop)
                    if at >= ready:
                        changed.clear()
                        if at >= min(fill.readable, stop) and fill.error is None:
                            try:
                                await asyncio.wait_for(changed.wait(), 0.1)
                            except TimeoutError:
                                continue
                        continue
                    if fd is None:
                        fd = _open(fill)
                    # Just written, so in memory: reading it takes less than a thread's turn.
                    chunk = os.pread(fd, min(CHUNK, ready - at), at)
                    if not chunk:  # of another process's file that was begun anew
                        break
                    at += len(chunk)
                    moved = time.monotonic()
                    yield chunk
        finally:
            if fd is not None:
                os.close(fd)
        if isinstance(fill.error, VerificationError):
            raise fill.error
    if at < stop:
        async for chunk in _straight(straight, at, stop, in_thread):
            yield chunk


def _open(fill: BlobFill) -> int:
    try:
        return os.open(fill.partial, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(fill.path, os.O_RDONLY)


async def _straight(
    straight: Straight, at: int, stop: int, in_thread: InThread
) -> AsyncGenerator[bytes, None]:
    def chunks() -> Iterator[bytes]:
        with straight(at) as fetched:
            skip, left = at - fetched.offset, stop - at
            for chunk in fetched.chunks:
                part = chunk[skip:][:left]
                skip, left = max(0, skip - len(chunk)), left - len(part)
                if part:
                    yield part
                if not left:
                    return
            raise ConnectionAbortedError("the Hub's connection ended early")

    source = chunks()
    while (chunk := await in_thread(lambda: next(source, _END))) is not _END:
        yield chunk
