"""The catalogue's SQL: one text for SQLite and PostgreSQL."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

MIRROR = (
    "m.name, m.format, m.repo_id, m.weights, m.variant, m.rank, m.relation, m.source,"
    " m.status, m.status_reason, s.version, m.runtimes"
)
# The user's own rows first, then by rank; by name last, to make the order total.
ORDER = "CASE m.source WHEN 'user' THEN 0 ELSE 1 END, m.rank, m.repo_key"

# All that is known about names: a row for each mirror, or one row if there is none. Every join and
# subselect is an index look-up, and one statement costs less than two. Of tables that seldom have a
# row only the key is selected: a column costs as much as a look-up, even if it is empty.
_ABOUT = """
    SELECT {key}, r.key, b.key,
        (SELECT q.weights || ' ' || COALESCE(q.runtimes, '') FROM mirrors q
            WHERE q.repo_key = {key} AND q.weights <> '16bit' LIMIT 1),
        (SELECT q.repo_id FROM mirrors q WHERE q.repo_key = {key} LIMIT 1),
        EXISTS (SELECT 1 FROM local_mirrors l WHERE l.key = {key}),
        mr.key, mb.key, {mirror}
    FROM {names}
    LEFT JOIN repositories r ON r.key = {key}
    LEFT JOIN bad_mirrors b ON b.key = {key}
    LEFT JOIN mirrors m ON m.key = {key}
    LEFT JOIN sources s ON s.name = m.source
    LEFT JOIN bad_mirrors mb ON mb.key = m.repo_key
    LEFT JOIN repositories mr ON mr.key = m.repo_key
"""
ABOUT_ONE = _ABOUT.format(key=":key", names="(SELECT 1 AS one) AS x", mirror=MIRROR)
ABOUT_MANY = "WITH k(key) AS (VALUES {})" + _ABOUT.format(key="k.key", names="k", mirror=MIRROR)
# `{}` in these two is for the conditions, whose values are bound.
_MIRRORS = """
    SELECT {mirror} FROM mirrors m LEFT JOIN sources s ON s.name = m.source
    WHERE {{}} ORDER BY m.key, m.format, {order}
"""
MIRRORS = _MIRRORS.format(mirror=MIRROR, order=ORDER)
KEYS = "SELECT m.key FROM mirrors m WHERE {} ORDER BY m.key LIMIT :most OFFSET :skip"
_CONDITIONS = {
    "name": "(m.key = :name OR m.repo_key = :name)",
    "source": "m.source = :source",
    "format": "m.format = :format",
    "after": "m.key > :after",
    "upto": "m.key <= :upto",
}
REPOSITORIES = """
    SELECT key, repo_id, state, gated, format, base_model, revision_commit, licence, checked_at,
        renamed_to
    FROM repositories WHERE key IN ({})
"""
BAD = """
    SELECT key, repo_id, replacement, replacement_format, reason, source
    FROM bad_mirrors WHERE key IN ({})
"""
LOCAL = """
    SELECT path, repo_id, revision_commit, format, settings, created_at
    FROM local_mirrors WHERE key = :key ORDER BY created_at DESC
"""
INSERT_MIRROR = """
    INSERT INTO mirrors
        (key, name, format, repo_id, repo_key, weights, variant, rank, relation, source, runtimes)
    VALUES
        (:key, :name, :format, :repo_id, :repo_key, :weights, :variant, :rank, :relation, :source,
        :runtimes)
    ON CONFLICT (key, format, repo_key, variant, source)
    DO UPDATE SET rank = excluded.rank, weights = excluded.weights, relation = excluded.relation,
        runtimes = COALESCE(excluded.runtimes, mirrors.runtimes)
"""
INSERT_SOURCE = """
    INSERT INTO sources (name, version, origin, sha256, licence, imported_at, rows)
    VALUES (:name, :version, :origin, :sha256, :licence, :now, :rows)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version, origin = excluded.origin,
        sha256 = excluded.sha256, licence = excluded.licence,
        imported_at = excluded.imported_at, rows = excluded.rows
"""
INSERT_BAD = """
    INSERT INTO bad_mirrors (key, repo_id, replacement, replacement_format, reason, source)
    VALUES (:key, :repo_id, :replacement, :replacement_format, :reason, :source)
    ON CONFLICT (key) DO UPDATE SET replacement = excluded.replacement,
        replacement_format = excluded.replacement_format, reason = excluded.reason,
        source = excluded.source
"""
# One row per statement: SQLite searches its list of named parameters for each one, so a statement
# of many rows takes quadratic time.
INSERT_LOG = """
    INSERT INTO resolution_log (at, purpose, requested, key, format, repo_id, revision_commit,
        substituted, rule, source, source_version)
    VALUES (:at, :purpose, :requested, :key, :format, :repo_id, :commit, :substituted, :rule,
        :source, :source_version)
"""
REMEMBER = """
    INSERT INTO repositories (key, repo_id, renamed_to, state, gated, format, base_model,
        revision_commit, licence, checked_at)
    VALUES (:key, :repo_id, :renamed_to, :state, :gated, :format, :base_model, :commit, :licence,
        :checked_at)
    ON CONFLICT (key) DO UPDATE SET repo_id = excluded.repo_id, renamed_to = excluded.renamed_to,
        state = excluded.state, gated = excluded.gated,
        format = COALESCE(excluded.format, repositories.format),
        base_model = COALESCE(excluded.base_model, repositories.base_model),
        revision_commit = COALESCE(excluded.revision_commit, repositories.revision_commit),
        licence = COALESCE(excluded.licence, repositories.licence),
        checked_at = excluded.checked_at
    WHERE excluded.checked_at >= repositories.checked_at
"""


def with_keys(sql: str, each: str, keys: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """A statement with a place for each key, and their values.

    Padded to a power of two, so that there are few different statements to prepare.
    """
    filled, places = _with_places(sql, each, 1 << (len(keys) - 1).bit_length())
    return filled, {**dict.fromkeys(places, ""), **dict(zip(places, keys, strict=False))}


@functools.cache
def _with_places(sql: str, each: str, count: int) -> tuple[str, tuple[str, ...]]:
    places = tuple(f"k{i}" for i in range(count))
    return sql.format(", ".join(each.format(place) for place in places)), places


def mirrors_where(given: Mapping[str, str | None]) -> tuple[str, dict[str, str]]:
    """The conditions of `MIRRORS` and `KEYS`, and their values; `None` means any."""
    there = {
        what: value if what in ("source", "format") else value.lower()  # the others are keys
        for what, value in given.items()
        if value is not None
    }
    return " AND ".join(_CONDITIONS[what] for what in there) or "1 = 1", there
