"""`mdl cache ls`, `show` and `du`: the commands that only read."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdl.cli.cache.listing import Listing, print_lines, show_listing, summary
from mdl.cli.cache.options import (
    cache_dir_option,
    json_option,
    opened,
    print_notes,
    type_option,
)
from mdl.cli.output import FilePath, echo_json
from mdl.errors import UsageError
from mdl.formatting import counted, human_ago, human_size, printable, table

if TYPE_CHECKING:
    from mdl.cachemgr import CachedRepo, Totals

_DAY = 86400.0
_AGES = (
    (_DAY, "within a day"),
    (7 * _DAY, "within a week"),
    (30 * _DAY, "within a month"),
    (365 * _DAY, "within a year"),
    (float("inf"), "longer ago"),
)


@click.command("ls")
@click.option("-f", "--filter", "filters", multiple=True, help="size>1GB, type=model, accessed>7d…")
@click.option("--sort", "order", help="size, name, accessed or modified, with :asc or :desc.")
@click.option("--limit", type=click.IntRange(min=0), help="List at most this many.")
@click.option("-r", "--revisions", is_flag=True, help="One line per revision.")
@click.option("--tree", is_flag=True, help="As a tree: owners, repositories, revisions, files.")
@click.option("-q", "--quiet", is_flag=True, help="Names only, one per line.")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    help="Output format.",
)
@click.option("--rebuild", is_flag=True, help="Discard the index and read everything again.")
@cache_dir_option
@json_option
def list_command(
    cache_dir: Path | None, as_json: bool, shape: str, rebuild: bool, **choice: Any
) -> None:
    """List the repositories in the cache, all casings of each together.

    SIZE counts every byte once; `mdl cache show NAME` shows what is wrong with a broken repository.
    """
    if choice["tree"] and (choice["quiet"] or shape == "csv"):
        raise UsageError(
            "A tree is neither a list of names nor a table for a program.",
            next="Leave out --tree, or ask for --json, which is nested.",
        )
    found = opened(cache_dir)
    if rebuild:
        found.index.drop_view()
    show_listing(found, Listing("json" if as_json else shape, **choice))


@click.command("show")
@click.argument("name")
@type_option
@cache_dir_option
@json_option
def show(name: str, repo_type: str | None, cache_dir: Path | None, as_json: bool) -> None:
    """Show the details of one repository: casings, revisions, variants, files, problems."""
    from mdl.cachemgr.index import describe

    found = opened(cache_dir)
    repo = found.repo(name, repo_type)
    details = describe(found.root, repo, found.folders_of(repo.repo_id, repo.repo_type))
    print_notes(found)
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
    facts += [("link", printable(f["linked"])) for f in details["folders"] if f["linked"]]
    for key, value in facts:
        click.echo(f"  {key:10} {value}")
    for revision in details["revisions"]:
        refs = " ".join(map(printable, revision["refs"]))
        click.echo(f"\n{revision['commit']}  {revision['state']}  {refs}".rstrip())
        variants = [(f"{each['format']}:{each['variant']}", human_size(each["size"]),
                     counted(len(each["files"]), "file"))
                    for each in revision["variants"]]  # fmt: skip
        if variants:
            click.echo(table(("VARIANT", "SIZE", ""), variants, right=("SIZE",), indent=2))
        rows = [(file["path"], human_size(file["size"]), file["state"])
                for file in revision["files"]]  # fmt: skip
        rows += [(path, "-", "missing") for path in revision["missing"]]
        if rows:
            click.echo(table(("FILE", "SIZE", ""), rows, right=("SIZE",), indent=2))
    if repo.problems:
        click.echo("\nproblems:")
        print_lines([f"  {printable(problem)}" for problem in repo.problems])


@click.command("du")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="List at most this many.",
)
@click.option(
    "--plot",
    type=FilePath(path_type=Path, dir_okay=False),
    help="Draw a treemap into FILE.svg or FILE.png.",
)
@click.option(
    "--colour",
    type=click.Choice(["age", "type"]),
    default="age",
    show_default=True,
    help="What a colour says in the treemap.",
)
@cache_dir_option
@json_option
def du(limit: int, plot: Path | None, colour: str, cache_dir: Path | None, as_json: bool) -> None:
    """Show what takes up the space: the largest repositories, and all by type and last use."""
    found = opened(cache_dir)
    repos, totals = found.listing()
    print_notes(found)
    repos = sorted(repos, key=lambda repo: -repo.size_on_disk)
    if plot is not None:
        _plot(plot, repos, totals, found.root, colour)
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
    header = ("REPOSITORY", "ON DISK", "AS COPIES", "FREES")
    click.echo(table(header, rows, right=header[1:], spare=("AS COPIES",)))
    others = sum(repo.size_on_disk for repo in repos[len(shown) :])
    if others:
        click.echo(f"and {counted(len(repos) - len(shown), 'other')}: {human_size(others)}")
    if shown:
        print_lines(["", *_shares(repos, time.time())])
    print_lines(summary(found, totals))


def _shares(repos: "list[CachedRepo]", now: float) -> list[str]:
    """Bytes by type and by last use, each with a bar."""
    by_type: dict[str, int] = {}
    by_age: dict[str, int] = {text: 0 for _, text in _AGES}
    for repo in repos:
        by_type[repo.repo_type] = by_type.get(repo.repo_type, 0) + repo.size_on_disk
        age = float("inf") if repo.last_used is None else now - repo.last_used
        by_age[next(text for most, text in _AGES if age <= most)] += repo.size_on_disk
    total = max(1, sum(by_type.values()))
    rows = [(title, name, human_size(size), _bar(size / total))
            for title, sizes in (("type", by_type), ("last use", by_age))
            for name, size in sizes.items() if size]  # fmt: skip
    return table(("BY", "", "ON DISK", "SHARE"), rows, right=("ON DISK",)).split("\n")


def _bar(share: float) -> str:
    """`#` for each 5 %, at least one; and the percentage."""
    return f"{'#' * max(1, round(share * 20))} {share:.0%}"


def _plot(path: Path, repos: "list[CachedRepo]", totals: "Totals", root: Path, colour: str) -> None:
    from mdl.cachemgr.index import draw_png, draw_svg, poster, repo_tiles

    kind = path.suffix.lower()
    if kind not in (".svg", ".png"):
        raise UsageError(
            f"{path} is neither an .svg nor a .png file.", next="Name one that ends in either."
        )
    total = f"{counted(totals.repos, 'repository')}, {human_size(totals.size_on_disk)}"
    picture = poster(repo_tiles(repos, totals=totals), f"{total} in {root}", colour)
    if kind == ".svg":
        path.write_text(draw_svg(picture), encoding="utf-8")
    else:
        draw_png(picture, path)
    click.echo(f"Wrote {path}: {total}.", err=True)
