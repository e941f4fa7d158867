"""What `mdl cache ls` prints, and the lines that the other cache commands share with it."""

import gc
import sys
import time
from typing import NamedTuple

from mdl.cachemgr import Cache, CachedRepo, Totals
from mdl.cachemgr.index import Row, compile_filter, rows_of, sort_rows
from mdl.cli.cache.options import print_notes
from mdl.cli.output import echo_json, page
from mdl.formatting import counted, human_ago, human_size, printable, table

_STYLES = {"broken": "bad", "partial": "warning"}


class Listing(NamedTuple):
    """What to list, and how: `shape` is `table`, `json` or `csv`."""

    shape: str = "table"
    filters: tuple[str, ...] = ()
    order: str | None = None
    limit: int | None = None
    revisions: bool = False
    quiet: bool = False
    tree: bool = False


def show_listing(cache: Cache, wanted: Listing) -> None:
    """Print a cache's listing."""
    # Thousands of small values without a cycle: the collector would search them in vain.
    gc.disable()
    try:
        repos, totals = cache.listing()
        print_notes(cache)
        rows = _select(repos, wanted)
        if wanted.shape == "json":
            shown = {id(row.repo): row.repo for row in rows}.values()
            echo_json(
                {
                    "root": str(cache.root),
                    "repos": [repo.to_json() for repo in shown],
                    "totals": totals.to_json(),
                }
            )
        elif wanted.quiet:
            print_lines([printable(row.revision.commit if row.revision else _name(row.repo))
                         for row in rows])  # fmt: skip
        elif wanted.shape == "csv":
            _print_csv(rows)
        else:
            listed = _listed(rows) if wanted.filters or wanted.limit is not None else []
            if wanted.tree:
                from mdl.cli.cache.tree import tree_lines

                lines = tree_lines(cache, rows, revisions=wanted.revisions)
            else:
                lines = _table(rows, revisions=wanted.revisions)
            page("\n".join([*lines, *listed, *summary(cache, totals)]))
    finally:
        gc.freeze()  # nor at exit
        gc.enable()


def summary(cache: Cache, totals: Totals) -> list[str]:
    """The lines below a listing: the root as a whole."""
    lines = [
        "",
        f"{counted(totals.repos, 'repository')}, {counted(totals.revisions, 'revision')},"
        f" {human_size(totals.size_on_disk)} on disk in {printable(str(cache.root))}",
    ]
    more = [
        (totals.incomplete_size, "in interrupted downloads"),
        (totals.xet_size, "in xet/"),
        (totals.trash_size, "in the trash"),
    ]
    parts = [f"{human_size(size)} {where}" for size, where in more if size]
    if parts:
        lines.append(f"{', '.join(parts)}.")
    if totals.strangers:
        names = ", ".join(printable(name) for name in totals.strangers[:5])
        lines.append(f"Not part of a cache, left alone: {names}")
    return lines


def print_lines(lines: list[str]) -> None:
    """Print all of them in one write."""
    if lines:
        print("\n".join(lines))


def _listed(rows: list[Row]) -> list[str]:
    """The total of what a filter or a limit left."""
    size = human_size(sum(row.size for row in rows))
    return ["", f"{counted(len(rows), 'row')} listed, {size}"]


def _select(repos: list[CachedRepo], wanted: Listing) -> list[Row]:
    rows = rows_of(repos, revisions=wanted.revisions)
    now = time.time()
    for text in wanted.filters:
        keep = compile_filter(text, now)
        rows = [row for row in rows if keep(row)]
    if wanted.order:
        rows = sort_rows(rows, wanted.order)
    return rows if wanted.limit is None else rows[: wanted.limit]


def _name(repo: CachedRepo) -> str:
    return f"{repo.repo_type}/{repo.repo_id}"


def _table(rows: list[Row], *, revisions: bool) -> list[str]:
    now = time.time()
    header = ["REPOSITORY", "SIZE", "FORMAT", "LAST USED", "MODIFIED", "STATE", "REFS", ""]
    states = [row.state for row in rows]
    lines = [
        [
            _name(row.repo),
            human_size(row.size),
            _formats(row),
            human_ago(row.accessed, now),
            human_ago(row.modified, now),
            state,
            " ".join(row.refs),
            _remarks(row),
        ]
        for row, state in zip(rows, states, strict=True)
    ]
    if revisions:
        header.insert(1, "REVISION")
        for line, row in zip(lines, rows, strict=True):
            line.insert(1, row.revision.commit[:12] if row.revision else "")
    spare = ("MODIFIED", "LAST USED", "REFS", "FORMAT")
    styles = [_STYLES.get(state, "") for state in states]
    return table(header, lines, right=("SIZE",), spare=spare, styles=styles).split("\n")


def _formats(row: Row) -> str:
    """The first format, and how many more there are."""
    formats = row.formats
    more = f" +{len(formats) - 1}" if len(formats) > 1 else ""
    return f"{printable(formats[0])}{more}" if formats else ""


def _remarks(row: Row) -> str:
    remarks = ["pinned"] if row.pinned else []
    if len(row.repo.spellings) > 1:
        remarks.append(f"{len(row.repo.spellings)} spellings")
    if row.repo.problems:
        count = len(row.repo.problems)
        remarks.append(counted(count, "problem"))
    return ", ".join(remarks)


def _print_csv(rows: list[Row]) -> None:
    import csv

    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(
        ["repo_type", "repo_id", "commit", "size", "last_used", "last_modified", "state", "refs",
         "spellings", "problems", "formats"]
    )  # fmt: skip
    for row in rows:
        out.writerow(
            [row.repo.repo_type, printable(row.repo.repo_id),
             row.revision.commit if row.revision else "", row.size, row.accessed or "",
             row.modified or "", row.state, " ".join(map(printable, row.refs)),
             " ".join(map(printable, row.repo.spellings)),
             "; ".join(map(printable, row.repo.problems)), " ".join(map(printable, row.formats))]
        )  # fmt: skip
