"""The one kind of SQLite connection mdl opens."""

import contextlib
import sqlite3


class SelfClosing(sqlite3.Connection):
    """Closes itself when nobody has it any more.

    Its owners live as long as a cache, a thread or an answer, and may be collected in any order;
    Python 3.13 warns of every connection that nobody closed.
    """

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.close()
