"""A folder that stays open while its entries are read.

Where the system supports it, entries are reached through the folder's descriptor: the kernel need
not walk the path, and a link put in the folder's place meanwhile leads nowhere.
"""

import errno
import os
import stat
from itertools import islice
from types import TracebackType

from mdl.cachemgr.scan.stamps import change_stamp

_BY_DESCRIPTOR = os.scandir in os.supports_fd and os.readlink in os.supports_dir_fd
_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


class NotAFolder(Exception):
    """There is something else, perhaps a link, in place of a folder."""


class Directory:
    """A real folder's entries, at most `limit + 1` of them.

    Read a link among them with `os.readlink(entry.path, dir_fd=opened.fd)`.

    Raises:
        NotAFolder: it is a link, a file or something else.
        OSError: it is missing, or cannot be read.
    """

    __slots__ = ("entries", "fd", "path", "stamp")

    def __init__(self, path: str, limit: int) -> None:
        self.path = path
        self.fd: int | None = None
        if _BY_DESCRIPTOR:
            try:
                self.fd = os.open(path, _FLAGS)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise NotAFolder from error
                raise
        try:
            status = os.lstat(path) if self.fd is None else os.fstat(self.fd)
            if not stat.S_ISDIR(status.st_mode):
                raise NotAFolder
            self.stamp = change_stamp(status)
            with os.scandir(path if self.fd is None else self.fd) as entries:
                self.entries = list(islice(entries, limit + 1))
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> "Directory":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
