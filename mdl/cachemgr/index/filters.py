"""Filtering and sorting a listing, in the syntax of `hf cache ls`: pure functions."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mdl.cachemgr.types import CachedRepo, CachedRevision
from mdl.errors import MdlError, UsageError
from mdl.settings import parse_duration, parse_size

_FILTER = r"\s*([a-z_]+)\s*(==|!=|>=|<=|>|<|=)\s*(.+?)\s*"
_NUMBERS: dict[str, Callable[[Any, float], float]] = {
    "size": lambda row, now: float(row.size),
    "accessed": lambda row, now: _age(row.accessed, now),
    "modified": lambda row, now: _age(row.modified, now),
}
_TEXTS: dict[str, Callable[[Any], Iterable[str]]] = {
    "type": lambda row: [row.repo.repo_type],
    "refs": lambda row: row.refs,
    "name": lambda row: [row.repo.repo_id],
    "state": lambda row: [row.state],
    "format": lambda row: {name for each in row.formats for name in (each, each.partition(":")[0])},
    "pinned": lambda row: ["true" if row.pinned else "false"],
}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def _age(then: float | None, now: float) -> float:
    """Seconds since then; an unknown time compares as neither more nor less than anything."""
    return float("nan") if then is None else now - then


SORT_KEYS = ("accessed", "modified", "name", "size")


class Row(NamedTuple):
    """One line of a listing: a repository, or one `revision` of it."""

    repo: CachedRepo
    revision: CachedRevision | None = None

    @property
    def size(self) -> int:
        return self.repo.size_on_disk if self.revision is None else self.revision.size

    @property
    def accessed(self) -> float | None:
        return (self.revision and self.revision.last_used) or self.repo.last_used

    @property
    def modified(self) -> float | None:
        return (self.revision or self.repo).last_modified

    @property
    def refs(self) -> tuple[str, ...]:
        return (self.revision or self.repo).refs

    @property
    def formats(self) -> tuple[str, ...]:
        return (self.revision or self.repo).formats

    @property
    def state(self) -> str:
        return (self.revision or self.repo).state

    @property
    def pinned(self) -> bool:
        return (self.revision or self.repo).pinned


def rows_of(repos: Iterable[CachedRepo], *, revisions: bool = False) -> list[Row]:
    """One row per repository, or one per revision."""
    if not revisions:
        return [Row(repo) for repo in repos]
    return [Row(repo, revision) for repo in repos for revision in repo.revisions]


def compile_filter(text: str, now: float) -> Callable[[Row], bool]:
    """Parse `size>1GB`, `type=model`, `accessed>7d`, `refs=main`, `name=llama*`, `format=gguf`,
    `state=broken`.

    Raises:
        UsageError: it is not a filter.
    """
    match = re.fullmatch(_FILTER, text, re.IGNORECASE)
    key = match[1].lower() if match else ""
    if match is None or key not in {*_NUMBERS, *_TEXTS}:
        raise UsageError(
            f"{text!r} is not a filter.",
            next="Examples: size>1GB, format=gguf, accessed>7d, refs=main, state=broken."
            f" Keys: {', '.join(sorted({*_NUMBERS, *_TEXTS}))}.",
        )
    sign = "=" if match[2] == "==" else match[2]
    if key in _TEXTS:
        return _text_filter(text, key, sign, match[3])
    try:
        value = float(parse_size(match[3])) if key == "size" else parse_duration(match[3])
    except MdlError as error:
        raise UsageError(f"{text!r} is not a filter: {error.message}", next=error.next) from error
    number, compare = _NUMBERS[key], _COMPARE[sign]
    return lambda row: compare(number(row, now), value)


def _text_filter(text: str, key: str, sign: str, value: str) -> Callable[[Row], bool]:
    import fnmatch

    if sign not in ("=", "!="):
        raise UsageError(
            f"{text!r}: {key} can only be compared with = and !=.", next=f"Write {key}={value}."
        )
    pattern = value.casefold()
    read = _TEXTS[key]

    def holds(row: Row) -> bool:
        found = any(fnmatch.fnmatchcase(item.casefold(), pattern) for item in read(row))
        return found == (sign == "=")

    return holds


def sort_rows(rows: list[Row], order: str) -> list[Row]:
    """Sort by `size`, `name`, `accessed` or `modified`, with `:asc` or `:desc`.

    By default the newest or largest come first; names are sorted alphabetically.

    Raises:
        UsageError: there is no such order.
    """
    key, _, direction = order.partition(":")
    if key not in SORT_KEYS or direction not in ("", "asc", "desc"):
        raise UsageError(
            f"{order!r} is not a sort order.",
            next=f"Use one of {', '.join(SORT_KEYS)}, optionally with :asc or :desc.",
        )
    if key == "name":
        return sorted(
            rows, key=lambda row: row.repo.repo_id.casefold(), reverse=direction == "desc"
        )
    values: dict[str, Callable[[Row], float]] = {
        "size": lambda row: row.size,
        "accessed": lambda row: row.accessed or 0.0,
        "modified": lambda row: row.modified or 0.0,
    }
    return sorted(rows, key=values[key], reverse=direction != "asc")
