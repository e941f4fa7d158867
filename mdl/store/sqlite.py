"""The one kind of SQLite connection mdl opens."""

import contextlib
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
