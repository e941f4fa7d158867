"""`mdl cache ls`, `show` and `du`: reading, and nothing else."""

import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdl.cachemgr.cache import Cache
from mdl.cli.cache_common import (
    cache_dir_option,
    json_option,
    opened,
    say_notes,
    type_option,
)
from mdl.cli.output import FilePath, echo_json
from mdl.errors import UsageError
from mdl.text import human_ago, human_size, printable, table

if TYPE_CHECKING:
    from mdl.cachemgr.select import Row

_COLOURS = {"broken": "red", "partial": "yellow"}


@click.command("ls")
@click.option("-f", "--filter", "filters", multiple=True, help="size>1GB, type=model, accessed>7d…")
@click.option("--sort", "order", help="size, name, accessed or modified, with :asc or :desc.")
@click.option("--limit", type=click.IntRange(min=0), help="Only so many.")
@click.option("-r", "--revisions", is_flag=True, help="One line a revision.")
@click.option("-q", "--quiet", is_flag=True, help="Names only, one a line.")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    help="How the list is written.",
)
@click.option("--rebuild", is_flag=True, help="Forget the index's view and read the disk anew.")
@cache_dir_option
@json_option
def list_command(
    cache_dir: Path | None, as_json: bool, shape: str, rebuild: bool, **choice: Any
) -> None:
    """List every repository once, whatever its casings on disk.

    SIZE counts every byte once; `mdl cache show NAME` says what a broken repository lacks.
    """
    # Thousands of small values and no cycle among them: the collector would look in vain.
    gc.disable()
    found = opened(cache_dir)
    if rebuild:
        found.index.drop_view()
    try:
        _list(found, "json" if as_json else shape, choice)
    finally:
        gc.freeze()  # nor at the end, where the interpreter would look through them all once more
        gc.enable()


def _list(found: Cache, shape: str, choice: dict[str, Any]) -> None:
    repos, totals = found.listing()
    say_notes(found)
    rows = _chosen(repos, **choice)
    if shape == "json":
        shown = list({id(row.repo): row.repo for row in rows}.values())
        echo_json(
            {
                "root": str(found.root),
                "repos": [repo.to_json() for repo in shown],
                "totals": totals.to_json(),
            }
        )
    elif choice["quiet"]:
        _echo_lines([row.commit or f"{row.repo_type}/{row.repo_id}" for row in rows])
    elif shape == "csv":
        _csv(rows)
    else:
        _table(rows, revisions=choice["revisions"])
        _summary(found, totals)


def _chosen(
    repos: Any,
    *,
    filters: tuple[str, ...],
    order: str | None,
    limit: int | None,
    revisions: bool,
    quiet: bool,
) -> list["Row"]:
    from mdl.cachemgr.select import compile_filter, rows_of, sort_rows

    rows = rows_of(repos, revisions=revisions)
    now = time.time()
    for text in filters:
        keep = compile_filter(text, now)
        rows = [row for row in rows if keep(row)]
    if order:
        rows = sort_rows(rows, order)
    return rows if limit is None else rows[:limit]


def _table(rows: list["Row"], *, revisions: bool) -> None:
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
    head, *body = table(header, lines, right=(header.index("SIZE"),)).split("\n")
    colourful = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if colourful:
        head = click.style(head, bold=True)
        body = [
            click.style(line, fg=_COLOURS[row.state]) if row.state in _COLOURS else line
            for line, row in zip(body, rows, strict=True)
        ]
    _echo_lines([head, *body])


def _remarks(row: "Row") -> str:
    remarks = ["pinned"] if row.pinned else []
    if len(row.repo.spellings) > 1:
        remarks.append(f"{len(row.repo.spellings)} spellings")
    if row.repo.problems:
        count = len(row.repo.problems)
        remarks.append(f"{count} problem{'s' if count > 1 else ''}")
    return ", ".join(remarks)


def _echo_lines(lines: list[str]) -> None:
    if lines:
        click.echo("\n".join(lines))


def _csv(rows: list["Row"]) -> None:
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


def _summary(found: Cache, totals: Any) -> None:
    click.echo(
        f"\n{totals.repos} repositories, {totals.revisions} revisions,"
        f" {human_size(totals.size_on_disk)} on disk in {printable(str(found.root))}"
    )
    more = [
        (totals.incomplete_size, "in broken-off downloads"),
        (totals.xet_size, "in xet/"),
        (totals.trash_size, "in the trash"),
    ]
    said = [f"{human_size(size)} {where}" for size, where in more if size]
    if said:
        click.echo(f"{', '.join(said)}.")
    if totals.strangers:
        names = ", ".join(printable(name) for name in totals.strangers[:5])
        click.echo(f"Not part of a cache, left alone: {names}")


@click.command("show")
@click.argument("name")
@type_option
@cache_dir_option
@json_option
def show(name: str, repo_type: str | None, cache_dir: Path | None, as_json: bool) -> None:
    """Say everything about one repository: casings, revisions, files, problems."""
    from mdl.cachemgr.detail import describe

    found = opened(cache_dir)
    repo = found.repo(name, repo_type)
    details = describe(repo, found.folders_of(repo.repo_id, repo.repo_type))
    say_notes(found)
    if as_json:
        echo_json(details)
        return
    click.echo(f"{repo.repo_type}/{printable(repo.repo_id)}")
    facts = [
        ("spellings", ", ".join(printable(spelling) for spelling in repo.spellings)),
        ("aliases", ", ".join(printable(spelling) for spelling in repo.aliases) or "-"),
        ("on disk", human_size(repo.size_on_disk)),
        ("as copies", human_size(repo.logical_size)),
        ("frees", human_size(repo.reclaimable)),
        ("last used", f"{human_ago(repo.last_used)} ({repo.last_used_source or 'unknown'})"),
        ("pinned", "yes" if repo.pinned else "no"),
    ]
    for key, value in facts:
        click.echo(f"  {key:10} {value}")
    for revision in details["revisions"]:
        refs = " ".join(map(printable, revision["refs"]))
        click.echo(f"\n{revision['commit']}  {revision['state']}  {refs}".rstrip())
        rows = [(file["path"], human_size(file["size"]), file["state"])
                for file in revision["files"]]  # fmt: skip
        rows += [(path, "-", "missing") for path in revision["missing"]]
        if rows:
            text = table(("FILE", "SIZE", ""), rows, right=(1,))
            click.echo("\n".join(f"  {line}" for line in text.split("\n")))
    if repo.problems:
        click.echo("\nproblems:")
        _echo_lines([f"  {printable(problem)}" for problem in repo.problems])


@click.command("du")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Only so many."
)
@click.option(
    "--plot",
    type=FilePath(path_type=Path, dir_okay=False),
    help="Draw a treemap into FILE.svg or FILE.png.",
)
@cache_dir_option
@json_option
def du(limit: int, plot: Path | None, cache_dir: Path | None, as_json: bool) -> None:
    """Say what takes the room: the largest repositories, and everything else in the cache."""
    found = opened(cache_dir)
    repos, totals = found.listing()
    say_notes(found)
    repos = sorted(repos, key=lambda repo: -repo.size_on_disk)
    if plot is not None:
        _plot(plot, repos, totals)
    if as_json:
        echo_json(
            {
                "root": str(found.root),
                "repos": [
                    {
                        "repo_id": repo.repo_id,
                        "repo_type": repo.repo_type,
                        "size_on_disk": repo.size_on_disk,
                        "logical_size": repo.logical_size,
                        "reclaimable": repo.reclaimable,
                    }
                    for repo in repos
                ],
                "totals": totals.to_json(),
            }
        )
        return
    shown = [repo for repo in repos[:limit] if repo.size_on_disk]
    rows = [
        (f"{repo.repo_type}/{repo.repo_id}", human_size(repo.size_on_disk),
         human_size(repo.logical_size), human_size(repo.reclaimable))
        for repo in shown
    ]  # fmt: skip
    click.echo(table(("REPOSITORY", "ON DISK", "AS COPIES", "FREES"), rows, right=(1, 2, 3)))
    others = sum(repo.size_on_disk for repo in repos[len(shown) :])
    if others:
        click.echo(f"and {len(repos) - len(shown)} others: {human_size(others)}")
    _summary(found, totals)


def _plot(path: Path, repos: Any, totals: Any) -> None:
    from mdl.cachemgr.treemap import draw_png, draw_svg, to_cells

    cells = to_cells(repos, totals)
    if path.suffix.lower() == ".svg":
        path.write_text(draw_svg(cells), encoding="utf-8")
    elif path.suffix.lower() == ".png":
        draw_png(cells, path)
    else:
        raise UsageError(f"{path} is neither .svg nor .png.", next="Name a file with one of them.")
