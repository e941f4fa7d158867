"""Which files of a folder were opened, by whatever library: the kernel is asked (inotify)."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from types import TracebackType

_OPEN, _ISDIR = 0x20, 0x40000000
_EVENT = struct.Struct("iIII")


class Opened:
    """The files opened below a folder while the `with` lasts, as relative paths in `paths`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: set[str] = set()

    def __enter__(self) -> Opened:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK)
        self._watched = {}
        for place in (self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())):
            mark = libc.inotify_add_watch(self._fd, os.fsencode(place), _OPEN)
            assert mark >= 0, os.strerror(ctypes.get_errno())
            self._watched[mark] = place
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while data := os.read(self._fd, 1 << 16):
                self._take(data)
        except BlockingIOError:
            pass
        finally:
            os.close(self._fd)

    def _take(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            mark, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            name = data[at - length : at].rstrip(b"\0").decode()
            if not mask & _ISDIR and name:
                path = self._watched[mark] / name
                self.paths.add(path.relative_to(self.folder).as_posix())
