"""What repositories hold, by format and variant, and when model trees were read."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mdl.store.catalog_sql import with_keys

if TYPE_CHECKING:
    from mdl.store.database import Database, Writer

_COLUMNS = (
    "format, variant, variant_key, bits, size, files, method, branch, revision_commit, checked_at"
)
_SELECT = f"SELECT {_COLUMNS} FROM variants WHERE key = :key"  # noqa: S608
# A vision projector goes with every variant; the first of a format is its default.
_FEW = (
    f"WITH asked(wanted) AS (VALUES {{}}) SELECT key, position, {_COLUMNS}"  # noqa: S608
    " FROM asked JOIN variants ON key = wanted AND (format = 'mmproj' OR (format = :format AND "
)
_DEFAULT, _NAMED = _FEW + "position = 0))", _FEW + "variant_key = :variant))"
_ALL = _SELECT + " ORDER BY format, position"
_INSERT = """
    INSERT INTO variants (key, position, format, variant, variant_key, bits, size, files, method,
        branch, revision_commit, checked_at)
    VALUES (:key, :position, :format, :variant, :variant_key, :bits, :size, :files, :method,
        :branch, :commit, :checked_at)
"""
_AT_COMMIT = "SELECT 1 FROM variants WHERE key = :key AND revision_commit = :commit LIMIT 1"
_TREE = """
    INSERT INTO model_trees (key, checked_at) VALUES (:key, :now)
    ON CONFLICT (key) DO UPDATE SET checked_at = excluded.checked_at
"""


class VariantRow(NamedTuple):
    """One variant of a repository.

    `files` is JSON, `[[path, size], …]`, empty where the whole repository (or its `branch`) is the
    variant; `size` is in bytes, `checked_at` in seconds since 1970.
    """

    format: str
    variant: str
    variant_key: str
    bits: float | None
    size: int | None
    files: str
    method: str
    branch: str
    commit: str | None
    checked_at: float


class VariantTable:
    """The variants of repositories over an open database; each method is one query."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    def few(
        self, keys: Sequence[str], format: str, variant_key: str | None = None
    ) -> dict[str, list[VariantRow]]:
        """Of repositories that have it, by key: the variant of this key, or the default one, then
        the projectors beside it."""
        sql, values = with_keys(_DEFAULT if variant_key is None else _NAMED, "(:{})", keys)
        values |= {"format": format, "variant": variant_key}
        rows = self._database.rows(sql, values)
        if len(rows) > 1:  # sorted here: SQLite would make a table for one row, too
            rows = sorted(rows, key=lambda row: (row[0], row[2] != format, row[1]))
        found: dict[str, list[VariantRow]] = {}
        for row in rows:
            found.setdefault(row[0], []).append(VariantRow._make(row[2:]))
        return found

    def all(self, key: str) -> list[VariantRow]:
        """Everything known about a repository's files, each format's default first."""
        return [VariantRow._make(row) for row in self._database.rows(_ALL, {"key": key})]

    def remember(self, key: str, rows: Iterable[VariantRow]) -> None:
        """Replace what is known of a repository's files."""
        with self._database.transaction() as writer:
            _replace(writer, key, rows)

    def remember_newer(self, listed: Iterable[tuple[str, str | None, list[VariantRow]]]) -> None:
        """Replace what is known of repositories (key, commit, rows) at another commit."""
        with self._database.transaction() as writer:
            for key, commit, rows in listed:
                if not writer.rows(_AT_COMMIT, {"key": key, "commit": commit}):
                    _replace(writer, key, rows)

    def tree_read_at(self, key: str) -> float | None:
        """When the model tree of a name was last read, in seconds since 1970."""
        sql = "SELECT checked_at FROM model_trees WHERE key = :key"
        rows = self._database.rows(sql, {"key": key})
        return float(rows[0][0]) if rows else None

    def remember_tree(self, key: str) -> None:
        """Note that the model tree of a name was read just now."""
        with self._database.transaction() as writer:
            writer.run(_TREE, {"key": key, "now": time.time()})


def _replace(writer: "Writer", key: str, rows: Iterable[VariantRow]) -> None:
    positions: dict[str, int] = {}
    values = []
    for row in rows:
        positions[row.format] = positions.get(row.format, -1) + 1
        values.append({"key": key, "position": positions[row.format], **row._asdict()})
    writer.run("DELETE FROM variants WHERE key = :key", {"key": key})
    writer.run_many(_INSERT, values)
