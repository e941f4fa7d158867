"""One folder, open while its entries are looked at.

Where the system can, everything in it is then reached through the folder's descriptor: that
spares the kernel the walk along the path, and no link put in the folder's place meanwhile can
lead anywhere else.
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
    """Something else, perhaps a link, stands in a folder's place."""


class Directory:
    """A real folder's entries, at most `limit` and one more.

    Reach a link among them with `os.readlink(entry.path, dir_fd=opened.fd)`.

    Raises:
        NotAFolder: it is a link, a file or anything else.
        OSError: it is not there, or cannot be read.
    """

    __slots__ = ("entries", "fd", "stamp")

    def __init__(self, path: str, limit: int) -> None:
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
