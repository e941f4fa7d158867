"""The SQLite connection that mdl uses, and how to read its file meanwhile."""

import contextlib
import os
import sqlite3


class SelfClosing(sqlite3.Connection):
    """Closes itself when it is garbage-collected.

    Owner and connection may be in one reference cycle, where either can go first, and Python 3.13
    warns of every connection that is not closed.
    """

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.close()


def read_whole(path: str) -> bytes:
    """The bytes of a database's file; the descriptor stays open until the process ends.

    By POSIX, closing any descriptor of a file releases all locks that the process has on it. A
    connection of this process would go on without its locks; the next process to close the database
    would consider itself the last one and delete the write-ahead log: later writes would be lost.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    pieces = []
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)
