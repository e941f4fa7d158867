"""The catalogue: what is known about names, and the log of resolutions."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mdl.errors import StoreError
from mdl.settings import Settings
from mdl.store.catalog_sql import (
    ABOUT_MANY,
    ABOUT_ONE,
    BAD,
    INSERT_BAD,
    INSERT_LOG,
    INSERT_MIRROR,
    INSERT_SOURCE,
    KEYS,
    LOCAL,
    MIRRORS,
    REMEMBER,
    REPOSITORIES,
    mirrors_where,
    with_keys,
)
from mdl.store.database import Row, connect
from mdl.store.rows import (
    PACKAGED,
    USER,
    BadMirror,
    CatalogSource,
    LocalMirror,
    MirrorRow,
    NameRecord,
    RepositoryRow,
)

if TYPE_CHECKING:
    from mdl.store.database import Database, Writer


# A purpose has no index: look no further back than this.
_RECENT = "id > (SELECT coalesce(max(id), 0) - 100000 FROM resolution_log)"


class Catalog:
    """The catalogue over an open database. Every method is one query or one transaction."""

    def __init__(self, database: "Database") -> None:
        self.database = database

    # -- reading ----------------------------------------------------------------------------

    def about(self, key: str) -> NameRecord:
        """All that is known about one name: a few index look-ups, whatever the catalogue's size."""
        return self._grouped(self.database.rows(ABOUT_ONE, {"key": key}))[key]

    def about_many(self, keys: Sequence[str]) -> dict[str, NameRecord]:
        """All that is known about these (distinct) keys, in one round trip."""
        found = self._grouped(self._of_keys(ABOUT_MANY, "(:{})", keys))
        return {key: found[key] for key in keys}

    def _grouped(self, rows: Sequence[Row]) -> dict[str, NameRecord]:
        repositories = self._keyed(REPOSITORIES, {key for row in rows for key in (row[1], row[6])})
        bad = self._keyed(BAD, {key for row in rows for key in (row[2], row[7])})
        by_key: dict[str, list[Row]] = {}
        for row in rows:
            by_key.setdefault(row[0], []).append(row)
        return {key: self._record(its, repositories, bad) for key, its in by_key.items()}

    def _record(
        self, rows: Sequence[Row], repositories: Mapping[str, Row], bad: Mapping[str, Row]
    ) -> NameRecord:
        key, own, own_bad, quantized, spelling, has_local = rows[0][:6]
        mirrors = [
            (
                MirrorRow._make(row[8:]),
                BadMirror._make(bad[row[7]]) if row[7] in bad else None,
                RepositoryRow._make(repositories[row[6]]) if row[6] in repositories else None,
            )
            for row in rows
            if row[8] is not None
        ]
        if len(mirrors) > 1:
            mirrors.sort(key=_preference)
        weights, _, runtimes = (quantized or "").partition(" ")
        local = self.database.rows(LOCAL, {"key": key}) if has_local else ()
        return NameRecord(
            repository=RepositoryRow._make(repositories[own]) if own in repositories else None,
            bad=BadMirror._make(bad[own_bad]) if own_bad in bad else None,
            quantized=weights or None,
            spelling=mirrors[0][0].name if mirrors else spelling,
            mirrors=tuple(mirrors),
            local=tuple(LocalMirror._make(row) for row in local),
            runtimes=tuple(runtimes.split()),
        )

    def _keyed(self, sql: str, keys: set[str | None]) -> dict[str, Row]:
        """Rows by their first column, for those `keys` that are not `None`."""
        asked = [key for key in keys if key is not None]
        return {row[0]: row[1:] for row in self._of_keys(sql, ":{}", asked)} if asked else {}

    def _of_keys(self, sql: str, each: str, keys: Sequence[str]) -> Sequence[Row]:
        return self.database.rows(*with_keys(sql, each, keys))

    def mirrors(
        self, *, name: str | None = None, source: str | None = None, format: str | None = None
    ) -> list[MirrorRow]:
        """Mirror rows in order of preference, optionally of one name, source or format."""
        return self._mirrors({"name": name, "source": source, "format": format})

    def page(
        self,
        limit: int,
        *,
        after: str | None = None,
        source: str | None = None,
        format: str | None = None,
    ) -> tuple[list[MirrorRow], str | None]:
        """A page of rows, of the names after `after`: `limit`, and the rest of the last name's.

        Returns:
            The rows, and the next page's `after`: `None` on the last page.
        """
        given = {"after": after, "source": source, "format": format}
        ends = self._keys(given, limit - 1, 2)
        if len(ends) < 2:
            return self._mirrors(given), None
        last = ends[0]
        follows = ends[1] != last or self._keys({**given, "after": last}, 0, 1)
        return self._mirrors({**given, "upto": last}), last if follows else None

    def _mirrors(self, given: Mapping[str, str | None]) -> list[MirrorRow]:
        where, params = mirrors_where(given)
        return [MirrorRow._make(row) for row in self.database.rows(MIRRORS.format(where), params)]

    def _keys(self, given: Mapping[str, str | None], skip: int, most: int) -> list[str]:
        where, params = mirrors_where(given)
        found = self.database.rows(KEYS.format(where), {**params, "skip": skip, "most": most})
        return [row[0] for row in found]

    def sources(self) -> list[dict[str, Any]]:
        """The sources of the rows: edition, licence, hash and number of rows of each."""
        names = ("name", "version", "origin", "sha256", "licence", "imported_at", "rows")
        found = self.database.rows(
            "SELECT name, version, origin, sha256, licence, imported_at, rows FROM sources"
            " ORDER BY name"
        )
        return [dict(zip(names, row, strict=True)) for row in found]

    def version(self, source: str) -> str | None:
        rows = self.database.rows("SELECT version FROM sources WHERE name = :n", {"n": source})
        return str(rows[0][0]) if rows else None

    def names_near(self, key: str, few: int = 50_000) -> list[str]:
        """Names that a misspelled one may mean, in the Hub's spelling.

        All names of a catalogue with at most `few` rows; of a larger one, those with the same
        first letters.
        """
        bounds, params = "1 = 1", dict[str, Any]()
        if self.database.rows("SELECT COALESCE(SUM(rows), 0) FROM sources")[0][0] > few:
            bounds = "{0} >= :low AND {0} < :high"
            params = {"low": key[:3], "high": key[:3] + "~", "few": few}
        parts = (
            ("name", "mirrors", "key", ""),
            ("repo_id", "mirrors", "repo_key", ""),
            ("repo_id", "repositories", "key", " AND state = 'ok'"),
        )
        sql = " UNION ".join(
            f"SELECT {shown} FROM {table} WHERE {bounds.format(by)}{only}"  # noqa: S608 # constants
            for shown, table, by, only in parts
        )
        limit = " LIMIT :few" if params else ""
        return [str(row[0]) for row in self.database.rows(sql + limit, params)]

    def access(self, key: str, fingerprint: str) -> tuple[str, str, float] | None:
        """(state, the Hub's message, time) as last found for this token, or `None`."""
        rows = self.database.rows(
            "SELECT state, message, checked_at FROM access WHERE key = :k AND fingerprint = :f",
            {"k": key, "f": fingerprint},
        )
        return (rows[0][0], rows[0][1], rows[0][2]) if rows else None

    def history(
        self, name: str | None = None, limit: int = 50, *, purpose: str | None = None
    ) -> list[dict[str, Any]]:
        """The resolution log, newest first: all of it, that of a name, the latest of a purpose."""
        names = ("at", "purpose", "requested", "format", "repo_id", "commit", "substituted", "rule",
                 "source", "source_version")  # fmt: skip
        conditions = [
            "key = :key" if name is not None else "",
            f"purpose = :purpose AND {_RECENT}" if purpose is not None else "",
        ]
        where = " AND ".join(filter(None, conditions)) or "1 = 1"
        sql = f"SELECT at, purpose, requested, format, repo_id, revision_commit, substituted, rule, source, source_version FROM resolution_log WHERE {where} ORDER BY id DESC LIMIT :limit"  # noqa: S608, E501 # values are bound
        params: dict[str, Any] = {"limit": limit}
        if name is not None:
            params["key"] = name.lower()
        if purpose is not None:
            params["purpose"] = purpose
        found = [dict(zip(names, row, strict=True)) for row in self.database.rows(sql, params)]
        return [{**row, "substituted": bool(row["substituted"])} for row in found]

    # -- writing ----------------------------------------------------------------------------

    def import_rows(
        self, source: CatalogSource, mirrors: Iterable[MirrorRow], bad: Iterable[BadMirror] = ()
    ) -> int:
        """Replace all rows of one source, in one transaction; other sources are not touched."""
        values = [_mirror_values(row._replace(source=source.name)) for row in mirrors]
        with self.database.transaction() as writer:
            _put_source(writer, source, len(values))
            writer.run("DELETE FROM mirrors WHERE source = :s", {"s": source.name})
            writer.run("DELETE FROM bad_mirrors WHERE source = :s", {"s": source.name})
            writer.run_many(INSERT_MIRROR, values)
            writer.run_many(
                INSERT_BAD,
                [{**b._asdict(), "key": b.repo_id.lower(), "source": source.name} for b in bad],
            )
        self.database.analyze("mirrors")
        return len(values)

    def add(self, rows: Iterable[MirrorRow], source: CatalogSource | None = None) -> None:
        """Add or replace single rows: the user's own, or what `sync` found for a name."""
        source = source or CatalogSource(USER, "", "mdl catalog add", "", "")
        with self.database.transaction() as writer:
            _put_source(writer, source, 0)
            writer.run_many(
                INSERT_MIRROR, [_mirror_values(r._replace(source=source.name)) for r in rows]
            )
            writer.run(
                "UPDATE sources SET rows = (SELECT COUNT(*) FROM mirrors WHERE source = :s)"
                " WHERE name = :s",
                {"s": source.name},
            )

    def remove(self, name: str, repo_id: str | None = None, *, source: str = USER) -> int:
        """Remove one source's rows of a name (or one of them); returns how many."""
        sql = "DELETE FROM mirrors WHERE key = :key AND source = :source"
        params = {"key": name.lower(), "source": source}
        if repo_id is not None:
            sql += " AND repo_key = :repo_key"
            params["repo_key"] = repo_id.lower()
        with self.database.transaction() as writer:
            return writer.run(sql, params)

    def mark(self, findings: Iterable[tuple[str, str, str, str, str | None]]) -> None:
        """Store what a check found, as (name, mirror, status, reason, runtimes) rows.

        `runtimes` is empty for all that load its format, and `None` where that was not looked at.
        """
        now = time.time()
        with self.database.transaction() as writer:
            writer.run_many(
                "UPDATE mirrors SET status = :s, status_reason = :r, checked_at = :t,"
                " runtimes = NULLIF(COALESCE(:u, runtimes), '') WHERE key = :n AND repo_key = :k",
                [
                    {
                        "s": status,
                        "r": reason,
                        "t": now,
                        "u": runtimes,
                        "n": name.lower(),
                        "k": repo_id.lower(),
                    }
                    for name, repo_id, status, reason, runtimes in findings
                ],
            )

    def remember(self, rows: Iterable[tuple[str, RepositoryRow]]) -> None:
        """Store what the Hub said, under the key that was asked for."""
        values = [{"key": key, **row._asdict()} for key, row in rows]
        with self.database.transaction() as writer:
            writer.run_many(REMEMBER, values)

    def remember_access(self, key: str, fingerprint: str, state: str, message: str) -> None:
        with self.database.transaction() as writer:
            writer.run(
                "INSERT INTO access (key, fingerprint, state, message, checked_at)"
                " VALUES (:k, :f, :s, :m, :t) ON CONFLICT (key, fingerprint) DO UPDATE SET"
                " state = excluded.state, message = excluded.message,"
                " checked_at = excluded.checked_at",
                {"k": key, "f": fingerprint, "s": state, "m": message, "t": time.time()},
            )

    def record_local_mirror(self, mirror: LocalMirror) -> None:
        """Record a checkpoint that mdl quantized, or record it again."""
        with self.database.transaction() as writer:
            writer.run(
                "INSERT INTO local_mirrors (path, key, repo_id, revision_commit, format, settings,"
                " created_at) VALUES (:path, :key, :repo_id, :commit, :format, :settings,"
                " :created_at) ON CONFLICT (path) DO UPDATE SET created_at = excluded.created_at",
                {**mirror._asdict(), "key": mirror.repo_id.lower()},
            )

    def log(self, purpose: str, requested: str, format: str, result: dict[str, Any]) -> None:
        """Log a resolution that was used; `result` is its JSON form."""
        self.log_many(purpose, [(time.time(), requested, format, result)])

    def log_many(
        self, purpose: str, resolutions: Iterable[tuple[float, str, str, dict[str, Any]]]
    ) -> None:
        """Log (time, requested, format, a resolution's JSON form) rows in one transaction."""
        rows = [
            {"at": at, "purpose": purpose, "requested": requested, "key": requested.lower(),
             "format": format, "repo_id": result["repo_id"], "commit": result["commit"],
             "substituted": int(result["substituted"]), "rule": result["rule"],
             "source": result["source"], "source_version": result["source_version"]}
            for at, requested, format, result in resolutions
        ]  # fmt: skip
        with self.database.transaction() as writer:
            writer.run_many(INSERT_LOG, rows)


def open_catalog(settings: Settings) -> Catalog:
    """Open the catalogue, and import the packaged rows if they are newer.

    Raises:
        BusyError: another process is upgrading the database and does not finish.
        ConfigError: `MDL_DATABASE_URL` is not a URL mdl can use.
        StoreError: the database cannot be opened, is damaged, or was made by a newer mdl.
    """
    from mdl.store import packaged

    catalog = Catalog(connect(settings))
    edition = catalog.version(PACKAGED)
    # Never an older edition: two versions of mdl on one database would replace each other's.
    if packaged.newer_than(edition) and catalog.database.writable:
        catalog.import_rows(*packaged.read_packaged())
    elif edition is None:
        raise StoreError(
            f"The database {catalog.database.where} is empty and read-only.",
            next="Make the folder writable once, or set MDL_HOME to another.",
        )
    return catalog


def _preference(mirror: tuple[MirrorRow, BadMirror | None, RepositoryRow | None]) -> Any:
    """The same order as `ORDER`, for rows that were read already."""
    row = mirror[0]
    return row.source != USER, row.rank, row.repo_id.lower()


def _put_source(writer: "Writer", source: CatalogSource, rows: int) -> None:
    writer.run(INSERT_SOURCE, {**source._asdict(), "now": time.time(), "rows": rows})


def _mirror_values(row: MirrorRow) -> dict[str, Any]:
    values = row._asdict()
    del values["status"], values["status_reason"], values["source_version"]
    return {**values, "key": row.name.lower(), "repo_key": row.repo_id.lower()}
