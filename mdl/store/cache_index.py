"""The index of a cache root: one SQLite file per root and machine, in `$MDL_HOME/cache/`.

`folder` is a view of the disk, which may be dropped at any time and is read again. The other tables
have what is not on the disk (pins, last uses, registered lock files, the journal of actions) and
survive a rebuild.
"""

import json
import os
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from mdl.store.index_file import VIEW, VIEW_VERSION, IndexFile


class JournalAction(NamedTuple):
    """One line of the journal. `detail` is what it takes to show and undo it."""

    id: int
    kind: str
    state: str
    started: float
    finished: float | None
    summary: str
    detail: dict[str, Any]


class FolderRow(NamedTuple):
    """What is remembered of one folder of the cache.

    Attributes:
        probes: JSON; empty where the folder must be read again next time.
        facts: JSON; what a listing shows.
        breakdown: JSON; what a prune plan needs besides; empty where it was not asked for.
        linked: some of its bytes have further names elsewhere.
    """

    name: str
    probes: str
    facts: str
    breakdown: str = ""
    linked: bool = False


class CacheIndex(IndexFile):
    """The index of one root. Every method raises `StoreError` if the file cannot be used."""

    # The view of the disk

    def folders(self, *, breakdowns: bool = False) -> dict[str, FolderRow]:
        """Every folder by its name; leaving out `breakdowns` is faster."""
        version = self._rows("SELECT value FROM meta WHERE key = 'view_version'")
        if version != [(str(VIEW_VERSION),)]:
            self.drop_view()
        rows = self._rows(
            "SELECT name, probes, facts, breakdown FROM folder"
            if breakdowns
            else "SELECT name, probes, facts FROM folder"
        )
        return {name: FolderRow(name, *row) for raw, *row in rows for name in [os.fsdecode(raw)]}

    def put_folders(self, rows: Iterable[FolderRow], gone: Iterable[str] = ()) -> None:
        """Store these folders, and remove those that are gone."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO folder VALUES (?, ?, ?, ?, ?)",
                ((os.fsencode(name), *row) for name, *row in rows),
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
        """Remove everything that can be read from the disk again."""
        with self.transaction():
            self._db.execute("DROP TABLE IF EXISTS folder")
            self._db.execute(VIEW)
            self._db.execute(
                "INSERT OR REPLACE INTO meta VALUES ('view_version', ?)", (str(VIEW_VERSION),)
            )

    # Pins, use, lock files, spellings

    def pins(self) -> list[tuple[str, str, str, float]]:
        """(repo_key, revision or '', repo_id, time) of every pin."""
        return self._rows(
            "SELECT repo_key, revision, repo_id, at FROM pin ORDER BY repo_key, revision"
        )

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
        """(repo_key, commit, time) of the last recorded use of each."""
        return self._rows("SELECT repo_key, revision, at FROM used")

    def record_use(self, repo_key: str, revision: str, at: float) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT INTO used VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at = max(at, ?)",
                (repo_key, revision, at, at),
            )

    def lock_files(self) -> list[tuple[str, str, str]]:
        """(path of a registered lock file, repo_key, commit)."""
        rows = self._rows("SELECT path, repo_key, revision FROM lock_file")
        return [(os.fsdecode(path), key, revision) for path, key, revision in rows]

    def put_lock_file(self, path: str, entries: Iterable[tuple[str, str]]) -> None:
        """Replace what a registered lock file protects: (repo_key, commit) pairs."""
        with self.transaction(durable=True):
            self._db.execute("DELETE FROM lock_file WHERE path = ?", (os.fsencode(path),))
            self._db.executemany(
                "INSERT OR IGNORE INTO lock_file VALUES (?, ?, ?, ?)",
                [(os.fsencode(path), key, revision, time.time()) for key, revision in entries],
            )

    def restored(self) -> list[tuple[str, str, float]]:
        """(repo_key, commit or '', when) of what undo brought back."""
        return self._rows("SELECT repo_key, revision, at FROM restored")

    def put_restored(self, rows: Iterable[tuple[str, str, float]], *, forget: float) -> None:
        """Record what undo brought back, and forget what it did before `forget`."""
        with self.transaction(durable=True):
            self._db.execute("DELETE FROM restored WHERE at < ?", (forget,))
            self._db.executemany("INSERT OR REPLACE INTO restored VALUES (?, ?, ?)", rows)

    def canonical(self) -> dict[str, str]:
        """repo_key → the Hub's own spelling, if known."""
        return dict(self._rows("SELECT repo_key, repo_id FROM canonical"))

    def put_canonical(self, repo_key: str, repo_id: str) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO canonical VALUES (?, ?, ?)",
                (repo_key, repo_id, time.time()),
            )

    # What verify already hashed

    def verified(self, since: float) -> dict[str, tuple[str, str]]:
        """Path → (stamp of the hashed content, verdict), of files hashed since."""
        rows = self._rows("SELECT path, stamp, verdict FROM verified WHERE at >= ?", (since,))
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
        """Record a whole action, before its first operation touches the disk."""
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
        """Record further operations of a running action, before they are performed."""
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
        """Change an action's state; further keywords are merged into its detail."""
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

    def actions(self, *states: str) -> list[JournalAction]:
        """The journal, oldest first; only these states if any are given."""
        rows = self._rows(
            "SELECT id, kind, state, started, finished, summary, detail FROM action ORDER BY id"
        )
        found = []
        for id_, kind, state, started, finished, summary, detail in rows:
            found.append(
                JournalAction(id_, kind, state, started, finished, summary, json.loads(detail))
            )
        return [action for action in found if not states or action.state in states]

    def operations(self, action_id: int) -> list[dict[str, Any]]:
        rows = self._rows("SELECT op FROM operation WHERE action_id = ? ORDER BY seq", (action_id,))
        return [json.loads(op) for (op,) in rows]

    def forget_operations(self, action_id: int) -> None:
        """Drop the operations of an action that can no longer be undone."""
        with self.transaction():
            self._db.execute("DELETE FROM operation WHERE action_id = ?", (action_id,))
