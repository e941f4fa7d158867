"""The bytes of a file, from the disk or while they arrive, as asynchronous iterators."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from mdl.cachemgr.fill import WITHHELD, BlobFill, Fetched
from mdl.errors import VerificationError

CHUNK = 1 << 20
# Seconds without progress after which a reader goes its own way. huggingface_hub waits 10 seconds
# for the next byte, llama.cpp 30: this and the wait for the Hub's own first byte stay below that.
_STALLED = 8.0
_AHEAD = 16 << 20  # bytes before a download gets there; further is fetched, not waited for
_END = object()
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
Straight = Callable[[int], AbstractContextManager[Fetched]]


async def local_chunks(fd: int, first: int, stop: int) -> AsyncGenerator[bytes, None]:
    """A file that is here, though it be unlinked meanwhile; its descriptor is closed in the end."""
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
    reader = _Reader(fill, first, stop)
    with contextlib.closing(reader):
        if first <= fill.readable + _AHEAD:
            async for chunk in reader.along():
                yield chunk
        if reader.at < stop:
            async for chunk in _in_turn(lambda: reader.straight(straight), in_thread):
                yield chunk


def straight_chunks(
    straight: Straight, first: int, stop: int, in_thread: InThread
) -> AsyncGenerator[bytes, None]:
    """A part of a file that nobody downloads."""
    return _in_turn(lambda: _fetched(straight, first, stop), in_thread)


async def _in_turn(
    begin: Callable[[], Iterator[bytes]], in_thread: InThread
) -> AsyncGenerator[bytes, None]:
    source = await in_thread(begin)
    while (chunk := await in_thread(lambda: next(source, _END))) is not _END:
        yield chunk


def _fetched(straight: Straight, at: int, stop: int) -> Iterator[bytes]:
    """The bytes from `at` to `stop`, straight from the Hub."""
    with straight(at) as fetched:
        skip = at - fetched.offset
        for chunk in fetched.chunks:
            part = chunk[skip:][: stop - at]
            skip = max(0, skip - len(chunk))
            at += len(part)
            if part:
                yield part
            if at == stop:
                return
        raise ConnectionAbortedError("the Hub's connection ended early")


class _Reader:
    """One reader of a file that is on its way: from byte `at` to `stop`."""

    def __init__(self, fill: BlobFill, first: int, stop: int) -> None:
        self._fill, self._first, self._stop = fill, first, stop
        self.at = first
        self._fd: int | None = None

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    async def along(self) -> AsyncGenerator[bytes, None]:
        """What arrives, until it stalls or fails."""
        fill = self._fill
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        with fill.listening(lambda: loop.call_soon_threadsafe(changed.set)):
            moved = time.monotonic()
            while (
                self.at < self._stop and fill.error is None and time.monotonic() - moved < _STALLED
            ):
                changed.clear()
                ready = min(fill.readable, self._stop)
                if self.at < ready:
                    chunk = self._next(ready)
                    if not chunk:
                        break
                    yield chunk
                    moved = time.monotonic()  # a client that reads slowly is no stall
                elif fill.error is None:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), 0.1)
        if isinstance(fill.error, VerificationError):
            raise fill.error

    def _next(self, ready: int) -> bytes:
        if self._fd is None:
            try:
                self._fd = self._fill.open()
            except FileNotFoundError:  # removed, or wrong
                return b""
        self._fill.require_same(self._fd)
        # Just written, so in memory: reading it takes less than a thread's turn.
        chunk = os.pread(self._fd, min(CHUNK, ready - self.at), self.at)
        if not chunk and self.at > self._first:
            raise VerificationError("The download was begun anew.", next="Try again.")
        self.at += len(chunk)
        return chunk

    def straight(self, straight: Straight) -> Iterator[bytes]:
        """The rest from the Hub; of a whole file the end waits for its hash, as it does in a fill.

        Raises:
            VerificationError: what came is not the file.
        """
        digest = self._digest()
        last = self._stop - WITHHELD if digest is not None else self._stop
        withheld = []
        for chunk in _fetched(straight, self.at, self._stop):
            self.at += len(chunk)
            if digest is not None:
                digest.update(chunk)
            if self.at > last:
                withheld.append(chunk)
            else:
                yield chunk
        self._fill.require_right(digest)
        if withheld:
            yield b"".join(withheld)

    def _digest(self) -> Any:
        """The hash of what was read so far, if it is to be all of the file."""
        if (self._first, self._stop) != (0, self._fill.size):
            return None
        digest = self._fill.digest()
        if digest is not None and self._fd is not None:
            for at in range(0, self.at, CHUNK):
                digest.update(os.pread(self._fd, min(CHUNK, self.at - at), at))
        return digest
