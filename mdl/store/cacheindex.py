"""The one SQLite file a cache root has on this machine, under `$MDL_HOME/cache/`.

Two kinds of tables. `folder` is a view of the disk: it may be dropped at any time and is read
again. The others are knowledge the disk does not hold (pins, when something was used, lock files
on record, the journal of actions) and survive a rebuild. Standard library only, because
`mdl cache ls` must answer faster than SQLAlchemy imports.
"""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mdl.errors import StoreError
from mdl.store.sqlite import SelfClosing

SCHEMA_VERSION = 1
# Raise it when the meaning of a `folder` row changes: old rows are dropped and read again.
VIEW_VERSION = 2

# Room for the journal of a few thousand changes.
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
_VIEW = """
CREATE TABLE IF NOT EXISTS folder (
    name BLOB PRIMARY KEY, probes TEXT NOT NULL, facts TEXT NOT NULL, linked INTEGER NOT NULL);
"""


class Action(NamedTuple):
    """One line of the journal. `detail` is what its kind needs to be shown and undone."""

    id: int
    kind: str
    state: str
    started: float
    finished: float | None
    summary: str
    detail: dict[str, Any]


class CacheIndex:
    """An open index, to be used from one thread.

    Args:
        path: the file; its folder is made when missing. A path that cannot be written gives a
            copy in memory (`persistent` is false): answers stay right, and what must outlive the
            process is refused. A damaged file is set aside, as `set_aside`, never deleted.

    Raises:
        StoreError: the file comes from a newer mdl.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.persistent = True
        self.set_aside: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._give_up_reserve()
            self._open(str(path))
        except (OSError, sqlite3.OperationalError):
            self.persistent = False
            self._open(":memory:")
        except sqlite3.DatabaseError:
            self.set_aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
            path.rename(self.set_aside)
            self._open(str(path))

    def _open(self, target: str) -> None:
        if target != ":memory:":
            # The mode is given at creation: pins and paths are nobody else's business.
            os.close(os.open(target, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(target, timeout=10.0, isolation_level=None, factory=SelfClosing)
        if not self.persistent:
            self._copy_what_is_there()
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise StoreError(
                f"The cache index {self.path} was written by a newer mdl.",
                why=f"its schema is {found}, this mdl knows {SCHEMA_VERSION}.",
                next="Upgrade mdl, or move the file away: pins and the undo journal are in it.",
            )
        if found < SCHEMA_VERSION:
            self._create()

    @property
    def _reserve(self) -> Path:
        return self.path.with_suffix(".reserve")

    def _give_up_reserve(self) -> None:
        """A full disk is when pruning is needed most: the reserve gives way to the journal."""
        if self._room() < _RESERVE:
            self._reserve.unlink(missing_ok=True)

    def keep_reserve(self) -> None:
        """Take a little room for the day when the disk is full, unless that day is near."""
        if self.persistent and self._room() > 16 * _RESERVE and not self._reserve.exists():
            with contextlib.suppress(OSError):
                # Random, because a file system that compresses would keep no room for zeros.
                self._reserve.write_bytes(os.urandom(_RESERVE))

    def _room(self) -> int:
        """Bytes left on the index's disk; 0 where that is not known."""
        if not hasattr(os, "statvfs"):
            return 0
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail * disk.f_frsize

    def _copy_what_is_there(self) -> None:
        """Pins and locks hold for one who may only read them, too.

        Copied with what waits in the write-ahead log, which cannot be read in place without
        writing beside it.
        """
        import shutil
        import tempfile

        with contextlib.suppress(OSError, sqlite3.Error), tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "index")
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{self.path}{suffix}", f"{copy}{suffix}")
            with contextlib.closing(sqlite3.connect(copy)) as there:
                there.backup(self._db)

    def _create(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        with self.transaction():
            for statement in (_DURABLE + _VIEW).split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('view_version', ?)", (str(VIEW_VERSION),)
            )
        self.keep_reserve()

    def close(self) -> None:
        self._db.close()

    def __del__(self) -> None:
        # An index lives as long as the cache that opened it; nobody else would close it.
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self.close()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All or nothing; `durable` also waits until it would survive a power cut.

        Raises:
            StoreError: `durable`, and the index is only in memory.
        """
        if durable:
            self.must_last()
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def must_last(self) -> None:
        """Refuse what has to outlive this process, where nothing does.

        Raises:
            StoreError: the index is only in memory.
        """
        if not self.persistent:
            full = self.path.parent.is_dir() and self._room() < _RESERVE
            raise StoreError(
                f"The cache index {self.path} cannot be written"
                f"{': no space is left on its disk' if full else ''}.",
                why="pins, and every change before it is made, are written there",
                next="Nothing was changed. Set MDL_HOME to a folder you can write to"
                f"{', or make a little room' if full else ''}.",
            )

    # The view of the disk

    def folders(self) -> dict[str, tuple[str, str]]:
        """Folder name → (probes, facts), as they were put."""
        version = self._db.execute("SELECT value FROM meta WHERE key = 'view_version'").fetchone()
        if version != (str(VIEW_VERSION),):
            self.drop_view()
        rows = self._db.execute("SELECT name, probes, facts FROM folder")
        return {os.fsdecode(name): (probes, facts) for name, probes, facts in rows}

    def put_folders(
        self, rows: Iterable[tuple[str, str, str, bool]], gone: Iterable[str] = ()
    ) -> None:
        """Store (name, probes, facts, linked) rows and forget the folders that are gone.

        `linked` says that some of its bytes have further names elsewhere.
        """
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO folder VALUES (?, ?, ?, ?)",
                (
                    (os.fsencode(name), probes, facts, linked)
                    for name, probes, facts, linked in rows
                ),
            )
            self._db.executemany(
                "DELETE FROM folder WHERE name = ?", ((os.fsencode(name),) for name in gone)
            )

    def forget_linked(self) -> None:
        """Forget the folders whose bytes have names elsewhere.

        How many names an inode has changes without any stamp of the other folders.
        """
        with self.transaction():
            self._db.execute("DELETE FROM folder WHERE linked")

    def drop_view(self) -> None:
        """Forget everything that can be read from the disk again."""
        with self.transaction():
            self._db.execute("DROP TABLE IF EXISTS folder")
            self._db.execute(_VIEW)
            self._db.execute(
                "INSERT OR REPLACE INTO meta VALUES ('view_version', ?)", (str(VIEW_VERSION),)
            )

    # Pins, use, lock files, spellings

    def pins(self) -> list[tuple[str, str, str, float]]:
        """(repo_key, revision or '', repo_id, when) of every pin."""
        return self._db.execute(
            "SELECT repo_key, revision, repo_id, at FROM pin ORDER BY repo_key, revision"
        ).fetchall()

    def add_pin(self, repo_key: str, revision: str, repo_id: str) -> None:
        with self.transaction(durable=True):
            self._db.execute(
                "INSERT OR REPLACE INTO pin VALUES (?, ?, ?, ?)",
                (repo_key, revision, repo_id, time.time()),
            )

    def remove_pin(self, repo_key: str, revision: str) -> bool:
        with self.transaction(durable=True):
            found = self._db.execute(
                "DELETE FROM pin WHERE repo_key = ? AND revision = ?", (repo_key, revision)
            )
        return found.rowcount > 0

    def used(self) -> list[tuple[str, str, float]]:
        """(repo_key, commit, when) of the last recorded use of each."""
        return self._db.execute("SELECT repo_key, revision, at FROM used").fetchall()

    def record_use(self, repo_key: str, revision: str, at: float) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT INTO used VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at = max(at, ?)",
                (repo_key, revision, at, at),
            )

    def lock_files(self) -> list[tuple[str, str, str]]:
        """(path of a lock file on record, repo_key, commit)."""
        rows = self._db.execute("SELECT path, repo_key, revision FROM lock_file")
        return [(os.fsdecode(path), key, revision) for path, key, revision in rows]

    def put_lock_file(self, path: str, entries: Iterable[tuple[str, str]]) -> None:
        """Replace what a lock file on record protects with these (repo_key, commit) pairs."""
        with self.transaction(durable=True):
            self._db.execute("DELETE FROM lock_file WHERE path = ?", (os.fsencode(path),))
            self._db.executemany(
                "INSERT OR IGNORE INTO lock_file VALUES (?, ?, ?, ?)",
                [(os.fsencode(path), key, revision, time.time()) for key, revision in entries],
            )

    def canonical(self) -> dict[str, str]:
        """repo_key → the Hub's own spelling, where it was learnt."""
        return dict(self._db.execute("SELECT repo_key, repo_id FROM canonical").fetchall())

    def put_canonical(self, repo_key: str, repo_id: str) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO canonical VALUES (?, ?, ?)",
                (repo_key, repo_id, time.time()),
            )

    # What verify already hashed

    def verified(self, since: float) -> dict[str, tuple[str, str]]:
        """Path → (stamp of the content that was hashed, verdict), of what was hashed since."""
        rows = self._db.execute("SELECT path, stamp, verdict FROM verified WHERE at >= ?", (since,))
        return {os.fsdecode(path): (stamp, verdict) for path, stamp, verdict in rows}

    def put_verified(self, rows: Iterable[tuple[str, str, str]]) -> None:
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO verified VALUES (?, ?, ?, ?)",
                [(os.fsencode(path), stamp, verdict, time.time()) for path, stamp, verdict in rows],
            )

    # The journal

    def begin_action(
        self, kind: str, summary: str, detail: dict[str, Any], ops: Iterable[dict[str, Any]]
    ) -> int:
        """Write a whole action down, before its first operation touches the disk."""
        with self.transaction(durable=True):
            cursor = self._db.execute(
                "INSERT INTO action (kind, state, started, summary, detail)"
                " VALUES (?, 'running', ?, ?, ?)",
                (kind, time.time(), summary, json.dumps(detail)),
            )
            action_id = cursor.lastrowid
            self._db.executemany(
                "INSERT INTO operation VALUES (?, ?, ?)",
                ((action_id, seq, json.dumps(op)) for seq, op in enumerate(ops)),
            )
        return int(action_id or 0)

    def add_operations(self, action_id: int, ops: Iterable[dict[str, Any]]) -> None:
        """Write further operations of a running action down, before they are performed."""
        with self.transaction(durable=True):
            (last,) = self._db.execute(
                "SELECT coalesce(max(seq), -1) FROM operation WHERE action_id = ?", (action_id,)
            ).fetchone()
            self._db.executemany(
                "INSERT INTO operation VALUES (?, ?, ?)",
                ((action_id, last + 1 + n, json.dumps(op)) for n, op in enumerate(ops)),
            )

    def set_action(
        self, action_id: int, state: str, summary: str | None = None, **detail: Any
    ) -> None:
        """Move an action on; further keywords are merged into its detail."""
        with self.transaction(durable=True):
            (text,) = self._db.execute(
                "SELECT detail FROM action WHERE id = ?", (action_id,)
            ).fetchone()
            merged = json.dumps({**json.loads(text), **detail})
            self._db.execute(
                "UPDATE action SET state = ?, finished = ?, detail = ?,"
                " summary = coalesce(?, summary) WHERE id = ?",
                (state, time.time(), merged, summary, action_id),
            )

    def actions(self, *states: str) -> list[Action]:
        """The journal, oldest first; only these states where any are given."""
        rows = self._db.execute(
            "SELECT id, kind, state, started, finished, summary, detail FROM action ORDER BY id"
        )
        found = []
        for id_, kind, state, started, finished, summary, detail in rows:
            found.append(Action(id_, kind, state, started, finished, summary, json.loads(detail)))
        return [action for action in found if not states or action.state in states]

    def operations(self, action_id: int) -> list[dict[str, Any]]:
        rows = self._db.execute(
            "SELECT op FROM operation WHERE action_id = ? ORDER BY seq", (action_id,)
        )
        return [json.loads(op) for (op,) in rows]

    def forget_operations(self, action_id: int) -> None:
        """Drop the operations of an action that can no longer be undone."""
        with self.transaction():
            self._db.execute("DELETE FROM operation WHERE action_id = ?", (action_id,))
