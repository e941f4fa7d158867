"""Three of Linux's interfaces that the standard library lacks: inotify, signalfd and prctl."""

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

OPEN = 0x20
CLOSE_WRITE = 0x08
MOVED_TO = 0x80
CREATE = 0x100
DELETE_SELF = 0x400
MOVE_SELF = 0x800
OVERFLOW = 0x4000
IGNORED = 0x8000
ONLY_FOLDERS = 0x0100_0000
IS_FOLDER = 0x4000_0000
MORE = 0x2000_0000  # beside what is watched already

_EVENT = struct.Struct("iIII")
_BUFFER = 1 << 20
_SIGNAL_INFO = 128
_SI_KERNEL = 0x80
_PR_SET_PDEATHSIG = 1
_CLOEXEC, _NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
_libc: Any = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """Something happened to a watched folder (`name` says to which entry) or file (no name)."""

    watch: int
    mask: int
    name: bytes


class Inotify:
    """An inotify instance.

    Raises:
        OSError: the user's instances are used up, or the system has no inotify.
    """

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(_CLOEXEC | _NONBLOCK), "inotify")

    def add(self, path: str, mask: int) -> int:
        """Watch a folder or file, or change what is watched of it; the watch's number.

        Raises:
            OSError: it is not there, may not be read, or the user's watches are used up.
        """
        return _checked(_libc.inotify_add_watch(self.fd, os.fsencode(path), mask), path)

    def remove(self, watch: int) -> None:
        _libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> Iterator[Event]:
        """What is in the queue now; never waits."""
        try:
            data = os.read(self.fd, _BUFFER)
        except BlockingIOError:
            return
        start = 0
        while start < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, start)
            start += _EVENT.size
            yield Event(watch, mask, data[start : start + length].rstrip(b"\0"))
            start += length

    def close(self) -> None:
        os.close(self.fd)


class ReceivedSignal(NamedTuple):
    """A signal, and whether the kernel sent it (a key of the terminal) or some process."""

    number: int
    from_kernel: bool


class SignalQueue:
    """A file descriptor that signals can be read from; they have to be blocked first."""

    def __init__(self, numbers: Iterable[int]) -> None:
        mask = sum(1 << (number - 1) for number in numbers)
        words = (ctypes.c_uint64 * 16)(mask)
        self.fd = _checked(_libc.signalfd(-1, words, _CLOEXEC | _NONBLOCK), "signalfd")

    def read(self) -> Iterator[ReceivedSignal]:
        """The signals that wait; never waits for one."""
        while True:
            try:
                info = os.read(self.fd, _SIGNAL_INFO)
            except BlockingIOError:
                return
            number, _, code = struct.unpack_from("Iii", info)
            yield ReceivedSignal(number, code == _SI_KERNEL)

    def close(self) -> None:
        os.close(self.fd)


def die_with_parent(parent: int, signal: int) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
