"""The SQLite file of a cache index: how it is opened, and what happens if it cannot be used.

People look at their cache when the disk is full, a file damaged or a folder read-only: none of
these may end in a traceback or lose what was recorded. Standard library only, because `mdl cache
ls` must be faster than SQLAlchemy's import.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mdl.errors import BusyError, MdlError, StoreError
from mdl.store.sqlite_connection import SelfClosing, read_whole

SCHEMA_VERSION = 1
# Increase it when the meaning of a `folder` row changes: old rows are dropped and read again.
VIEW_VERSION = 5

# Space for the journal of a few thousand changes.
_RESERVE = 1 << 20

_DURABLE = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pin (
    repo_key TEXT NOT NULL, revision TEXT NOT NULL, repo_id TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (repo_key, revision));
CREATE TABLE IF NOT EXISTS used (
    repo_key TEXT NOT NULL, revision TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (repo_key, revision));
CREATE TABLE IF NOT EXISTS lock_file (
    path BLOB NOT NULL, repo_key TEXT NOT NULL, revision TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (path, repo_key, revision));
CREATE TABLE IF NOT EXISTS restored (
    repo_key TEXT NOT NULL, revision TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (repo_key, revision));
CREATE TABLE IF NOT EXISTS canonical (
    repo_key TEXT PRIMARY KEY, repo_id TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS verified (
    path BLOB PRIMARY KEY, stamp TEXT NOT NULL, verdict TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS action (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, state TEXT NOT NULL,
    started REAL NOT NULL, finished REAL, summary TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS operation (
    action_id INTEGER NOT NULL REFERENCES action (id) ON DELETE CASCADE, seq INTEGER NOT NULL,
    op TEXT NOT NULL, PRIMARY KEY (action_id, seq)) WITHOUT ROWID;
"""
VIEW = """
CREATE TABLE IF NOT EXISTS folder (
    name BLOB PRIMARY KEY, probes TEXT NOT NULL, facts TEXT NOT NULL, breakdown TEXT NOT NULL,
    linked INTEGER NOT NULL);
"""


class IndexFile:
    """An open index file, for use in one thread.

    Args:
        path: the file; its folder is created if missing. If it cannot be written, a copy in memory
            is used (`persistent` is false): reading works, and what must outlive the process is
            refused. A damaged file is renamed to `set_aside`, never deleted.

    Raises:
        StoreError: the file comes from a newer mdl.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.persistent = True
        self.set_aside: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._release_reserve()
            self._open(str(path))
        except (OSError, sqlite3.OperationalError):
            self.persistent = False
            self._open(":memory:")
        except sqlite3.DatabaseError:
            self._db.close()
            self.set_aside = self._put_aside()
            self._open(str(path))

    def _open(self, target: str) -> None:
        if target != ":memory:":
            # Private from its creation: it has pins and paths. An existing file must not be opened
            # and closed: see `mdl.store.sqlite_connection.read_whole`.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            if not os.access(target, os.R_OK | os.W_OK):
                raise PermissionError(f"{target} belongs to another user")
        self._db = sqlite3.connect(target, timeout=10.0, isolation_level=None, factory=SelfClosing)
        if not self.persistent:
            self._copy_to_memory()
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise StoreError(
                f"The cache index {self.path} was written by a newer mdl.",
                why=f"its schema is {found}, this mdl supports {SCHEMA_VERSION}.",
                next="Upgrade mdl, or move the file away: pins and the undo journal are in it.",
            )
        if found < SCHEMA_VERSION:
            self._create()

    def _put_aside(self) -> Path:
        """Rename the file together with its log, which SQLite would delete if left alone."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
        for suffix in ("-shm", "-wal", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
        return aside

    @property
    def _reserve(self) -> Path:
        return self.path.with_suffix(".reserve")

    def _release_reserve(self) -> None:
        """Make room for the journal: pruning is needed most when the disk is full."""
        if self._free_space() < _RESERVE:
            self._reserve.unlink(missing_ok=True)

    def keep_reserve(self) -> None:
        """Reserve a little space for when the disk is full, unless it nearly is."""
        if self.persistent and self._free_space() > 16 * _RESERVE and not self._reserve.exists():
            with contextlib.suppress(OSError):
                # Random, because zeros take no space on a file system that compresses.
                self._reserve.write_bytes(os.urandom(_RESERVE))

    def _free_space(self) -> int:
        """Bytes left on the index's disk; 0 if unknown."""
        if not hasattr(os, "statvfs"):
            return 0
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail * disk.f_frsize

    def _copy_to_memory(self) -> None:
        """Copy the index into memory: pins protect also what a read-only user sees.

        With the write-ahead log, which cannot be read in place without writing beside it.
        """
        import tempfile

        with contextlib.suppress(OSError, sqlite3.Error), tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "index")
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{copy}{suffix}").write_bytes(read_whole(f"{self.path}{suffix}"))
            with contextlib.closing(sqlite3.connect(copy)) as there:
                there.backup(self._db)

    def _create(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        with self._all_or_nothing():
            for statement in (_DURABLE + VIEW).split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('view_version', ?)", (str(VIEW_VERSION),)
            )
        self.keep_reserve()

    def close(self) -> None:
        self._db.close()

    def __del__(self) -> None:
        # An index lives as long as the cache that opened it; nothing else closes it.
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self.close()

    def _rows(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        """All the rows of a query.

        Raises:
            StoreError: the file is damaged.
        """
        with self._translated_errors():
            return self._db.execute(sql, params).fetchall()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All or nothing; `durable` also waits until it would survive a power cut.

        Raises:
            BusyError: another process has been writing for too long.
            StoreError: the disk is full, the file damaged, or `durable` and only in memory.
        """
        if durable:
            self.must_last()
        with self._translated_errors():
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with self._all_or_nothing():
                yield

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite may have ended it: the disk was full
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._refusal(str(error)) from error

    def _refusal(self, why: str) -> MdlError:
        if "locked" in why:
            return BusyError(
                f"The cache index {self.path} is locked by another process.",
                why=why,
                next="Try again when it is done.",
            )
        do = "Move the file away and the disk is read again; it has pins and the undo journal."
        if "full" in why:
            do = "Free a little space on its disk; unfinished changes are then undone."
        return StoreError(f"The cache index {self.path} cannot be used.", why=why, next=do)

    def must_last(self) -> None:
        """Refuse what must outlive this process if the index is only in memory.

        Raises:
            StoreError: it is.
        """
        if not self.persistent:
            full = self.path.parent.is_dir() and self._free_space() < _RESERVE
            raise StoreError(
                f"The cache index {self.path} cannot be written"
                f"{': no space is left on its disk' if full else ''}.",
                why="pins, and every change before it is made, are recorded there",
                next="Nothing was changed. Set MDL_HOME to a folder you can write to"
                f"{', or free a little space' if full else ''}.",
            )
