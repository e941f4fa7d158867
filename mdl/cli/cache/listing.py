"""What `mdl cache ls` says. It imports no click, which takes longer than the answer."""

import gc
import os
import sys
import time
from typing import Any, NamedTuple

from mdl.cachemgr import Cache, CachedRepo, Totals, open_cache
from mdl.cachemgr.index import Row, compile_filter, rows_of, sort_rows
from mdl.formatting import human_ago, human_size, printable, table
from mdl.settings import load_settings

_BOLD, _RED, _YELLOW, _RESET = "\033[1m", "\033[31m", "\033[33m", "\033[0m"
_COLOURS = {"broken": _RED, "partial": _YELLOW}


class Listing(NamedTuple):
    """What is to be listed, and how: `shape` is `table`, `json` or `csv`."""

    shape: str = "table"
    filters: tuple[str, ...] = ()
    order: str | None = None
    limit: int | None = None
    revisions: bool = False
    quiet: bool = False


def list_plainly() -> None:
    """`mdl cache ls` as it is typed most."""
    show_listing(open_cache(load_settings()), Listing())


def show_listing(cache: Cache, listing: Listing) -> None:
    """Print a cache's listing."""
    # Thousands of small values and no cycle among them: the collector would look in vain.
    gc.disable()
    try:
        repos, totals = cache.listing()
        say_notes(cache)
        rows = _chosen(repos, listing)
        if listing.shape == "json":
            _print_json(cache, rows, totals)
        elif listing.quiet:
            names = [row.commit or f"{row.repo_type}/{row.repo_id}" for row in rows]
            print_lines([printable(name) for name in names])
        elif listing.shape == "csv":
            _print_csv(rows)
        else:
            print_lines([*_table(rows, revisions=listing.revisions), *summary(cache, totals)])
    finally:
        gc.freeze()  # nor at the end, where the interpreter would look through them all once more
        gc.enable()


def say_notes(cache: Cache) -> None:
    """What recovery did goes to standard error: it is news, not the answer."""
    if not cache.index.persistent:
        print(f"note: {cache.index.path} cannot be written: nothing is remembered.",
              file=sys.stderr)  # fmt: skip
    for note in cache.notes:
        print(f"note: {note}", file=sys.stderr)
    cache.notes.clear()


def summary(cache: Cache, totals: Totals) -> list[str]:
    """The lines below a listing: the root as a whole."""
    lines = [
        "",
        f"{totals.repos} repositories, {totals.revisions} revisions,"
        f" {human_size(totals.size_on_disk)} on disk in {printable(str(cache.root))}",
    ]
    more = [
        (totals.incomplete_size, "in broken-off downloads"),
        (totals.xet_size, "in xet/"),
        (totals.trash_size, "in the trash"),
    ]
    said = [f"{human_size(size)} {where}" for size, where in more if size]
    if said:
        lines.append(f"{', '.join(said)}.")
    if totals.strangers:
        names = ", ".join(printable(name) for name in totals.strangers[:5])
        lines.append(f"Not part of a cache, left alone: {names}")
    return lines


def print_lines(lines: list[str]) -> None:
    """All of them in one write."""
    if lines:
        print("\n".join(lines))


def _chosen(repos: list[CachedRepo], listing: Listing) -> list[Row]:
    rows = rows_of(repos, revisions=listing.revisions)
    now = time.time()
    for text in listing.filters:
        keep = compile_filter(text, now)
        rows = [row for row in rows if keep(row)]
    if listing.order:
        rows = sort_rows(rows, listing.order)
    return rows if listing.limit is None else rows[: listing.limit]


def _table(rows: list[Row], *, revisions: bool) -> list[str]:
    now = time.time()
    header = ["REPOSITORY", "SIZE", "LAST USED", "MODIFIED", "STATE", "REFS", ""]
    lines = [
        [
            f"{row.repo_type}/{row.repo_id}",
            human_size(row.size),
            human_ago(row.accessed, now),
            human_ago(row.modified, now),
            row.state,
            " ".join(row.refs),
            _remarks(row),
        ]
        for row in rows
    ]
    if revisions:
        header.insert(1, "REVISION")
        for line, row in zip(lines, rows, strict=True):
            line.insert(1, (row.commit or "")[:12])
    spare = ("MODIFIED", "LAST USED", "REFS")
    text = table(header, lines, right=("SIZE",), spare=spare).split("\n")
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    colours = [_BOLD, *[_COLOURS.get(row.state, "") for row in rows]]
    return [
        f"{colour}{line}{_RESET}" if colour else line
        for colour, line in zip(colours, text, strict=True)
    ]


def _remarks(row: Row) -> str:
    remarks = ["pinned"] if row.pinned else []
    if len(row.repo.spellings) > 1:
        remarks.append(f"{len(row.repo.spellings)} spellings")
    if row.repo.problems:
        count = len(row.repo.problems)
        remarks.append(f"{count} problem{'s' if count > 1 else ''}")
    return ", ".join(remarks)


def _print_json(cache: Cache, rows: list[Row], totals: Totals) -> None:
    import json

    repos = list({id(row.repo): row.repo.to_json() for row in rows}.values())
    found: dict[str, Any] = {"root": str(cache.root), "repos": repos, "totals": totals.to_json()}
    print(json.dumps(found, indent=2))


def _print_csv(rows: list[Row]) -> None:
    import csv

    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(
        ["repo_type", "repo_id", "commit", "size", "last_used", "last_modified", "state", "refs",
         "spellings", "problems"]
    )  # fmt: skip
    for row in rows:
        out.writerow(
            [row.repo_type, printable(row.repo_id), row.commit or "", row.size, row.accessed or "",
             row.modified or "", row.state, " ".join(map(printable, row.refs)),
             " ".join(map(printable, row.repo.spellings)),
             "; ".join(map(printable, row.repo.problems))]
        )  # fmt: skip
