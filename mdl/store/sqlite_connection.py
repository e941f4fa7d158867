"""The one kind of SQLite connection mdl opens, and how its file may be read beside it."""

import contextlib
import os
import sqlite3


class SelfClosing(sqlite3.Connection):
    """Closes itself when the collector finds it.

    A connection and its statement cache hold each other, so an owner that goes closes it at once;
    where owner and connection are in one cycle either may go first, and Python 3.13 warns of every
    connection that nobody closed.
    """

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.close()


def read_whole(path: str) -> bytes:
    """The bytes of a database's file, whose descriptor stays open until the process ends.

    By POSIX, closing any descriptor of a file ends all the locks that the process has on it. A
    connection of this process would go on without its own, and the next process to close the
    database would take itself for the last one and remove the write-ahead log under it: what is
    written from then on is seen by nobody and lost.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    pieces = []
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)
