"""Names for completion on the command line, read without creating, upgrading or locking a file."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any


def indexed_folders(index: Path) -> list[str]:
    """The folder names in a cache index; none if it cannot be read."""
    rows = _read(index, "SELECT name FROM folder", ())
    return [os.fsdecode(name) for (name,) in rows]


def catalogued_names(database: Path, prefix: str, limit: int) -> list[str]:
    """Names in an SQLite catalogue, or else in the packaged one, that begin with `prefix`."""
    if not database.exists():
        from mdl.store.packaged import read_packaged

        rows = read_packaged()[1]
        names = {name for row in rows for name in (row.name, row.repo_id)}
        return sorted(n for n in names if n.lower().startswith(prefix.lower()))[:limit]
    sql = (
        "SELECT DISTINCT name FROM mirrors WHERE key >= :low AND key < :high"
        " UNION SELECT DISTINCT repo_id FROM mirrors WHERE repo_key >= :low AND repo_key < :high"
        " LIMIT :limit"
    )
    low = prefix.lower()
    values = {"low": low, "high": low + "\U0010ffff", "limit": limit}
    return [str(name) for (name,) in _read(database, sql, values)]


def _read(path: Path, sql: str, values: Sequence[Any] | dict[str, Any]) -> list[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            return file.execute(sql, values).fetchall()
    except sqlite3.Error:
        return []
