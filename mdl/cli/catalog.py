"""`mdl catalog …`: the table of mirrors."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.termui import progressbar

from mdl.cli.output import FilePath, confirm, echo_json, never_asks, page, yes_option
from mdl.errors import NotFoundError, UsageError
from mdl.formatting import counted, human_ago, printable, table
from mdl.resolver import shown
from mdl.store import FORMATS, USER, BadMirror, Catalog, MirrorRow, open_catalog

if TYPE_CHECKING:
    from mdl.resolver import HubApi

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_dry = click.option("--dry-run", is_flag=True, help="Show what would change.")


@click.group()
def catalog() -> None:
    """The table of mirrors: which repository to load for which name and format."""


def _open() -> Catalog:
    from mdl.settings import load_settings

    return open_catalog(load_settings())


@catalog.command("ls")
@click.argument("pattern", required=False)
@click.option("--source", help="Rows of one source only.")
@click.option("--format", type=click.Choice(FORMATS), help="Rows of one format only.")
@click.option("--limit", type=click.IntRange(1), help="At most this many rows.")
@click.option("--sources", "show_sources", is_flag=True, help="List the sources of the rows.")
@_json
def ls(pattern: str | None, source: str | None, format: str | None, limit: int | None,
       show_sources: bool, as_json: bool) -> int:  # fmt: skip
    """List rows, or those whose name or mirror contains PATTERN."""
    found = _open()
    if show_sources:
        return _print_sources(found, as_json)
    rows = found.mirrors(source=source, format=format)
    if pattern:
        part = pattern.lower()
        rows = [r for r in rows if part in r.name.lower() or part in r.repo_id.lower()]
    total, rows = len(rows), rows[:limit]
    if as_json:
        echo_json({"mirrors": [row._asdict() for row in rows], "total": total})
        return 0
    more = f"\n… and {total - len(rows)} more" if total > len(rows) else ""
    page(f"{_rows_table(rows)}{more}" if rows else "No rows match.")
    return 0


@catalog.command()
@click.argument("name")
@_json
def show(name: str, as_json: bool) -> int:
    """Everything known about NAME."""
    found = _open()
    about = found.about(name.lower())
    rows = found.mirrors(name=name)
    if not (rows or about.repository or about.bad or about.local):
        raise NotFoundError(
            f"The catalogue has nothing about {shown(name)}.",
            next="`mdl catalog ls PART` searches; `mdl catalog sync NAME` asks the Hub.",
        )
    history = found.history(name, limit=5)
    if as_json:
        echo_json(
            {
                "name": about.spelling or name,
                "repository": about.repository._asdict() if about.repository else None,
                "bad": about.bad._asdict() if about.bad else None,
                "mirrors": [row._asdict() for row in rows],
                "local": [row._asdict() for row in about.local],
                "history": history,
            }
        )
        return 0
    click.echo(about.spelling or (about.bad.repo_id if about.bad else name))
    if about.repository is not None:
        seen = about.repository
        click.echo(
            f"  on the Hub ({human_ago(seen.checked_at)}): {seen.state},"
            f" gated {seen.gated or 'unknown'}, {seen.format or 'format unknown'},"
            f" commit {seen.commit or 'unknown'}"
        )
    if about.bad is not None:
        click.echo(f"  known bad: {about.bad.reason}; use {about.bad.replacement}")
    for mirror in about.local:
        click.echo(f"  local copy: {mirror.path} ({mirror.format} of {mirror.commit[:12]})")
    if rows:
        click.echo(_rows_table(rows))
    return 0


@catalog.command()
@click.argument("name")
@click.argument("mirror")
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    help="The format it is for; by default that of its weights.",
)
@click.option(
    "--weights",
    type=click.Choice(FORMATS),
    help="The format of its weights; by default what its name claims.",
)
@click.option("--rank", type=int, default=0, show_default=True, help="0 comes first.")
@_dry
@never_asks
@_json
def add(name: str, mirror: str, format: str | None, weights: str | None, rank: int, dry_run: bool,
        as_json: bool) -> int:  # fmt: skip
    """Resolve NAME to MIRROR; your own rows come before imported ones."""
    from mdl.resolver import mirror_row

    row = mirror_row(name, mirror, format=format, weights=weights, rank=rank)
    if not dry_run:
        _open().add([row])
    if as_json:
        echo_json({"added": row._asdict(), "dry_run": dry_run})
    else:
        verb = "Would resolve" if dry_run else "Now resolves"
        click.echo(f"{verb} {row.name} ({row.format}) to {row.repo_id}.")
    return 0


@catalog.command()
@click.argument("name")
@click.argument("mirror", required=False)
@click.option("--source", default=USER, show_default=True, help="The source of the rows.")
@_dry
@yes_option
@_json
def rm(name: str, mirror: str | None, source: str, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove the rows you added for NAME, or the one for MIRROR."""
    from mdl.resolver import rows_to_remove

    found = _open()
    rows = rows_to_remove(found, name, mirror, source)
    if not as_json:
        click.echo(_rows_table(rows))
    removed = 0
    if not dry_run:
        confirm(f"Remove {counted(len(rows), 'row')}?", yes=yes)
        removed = found.remove(name, mirror, source=source)
    if as_json:
        echo_json({"rows": [row._asdict() for row in rows], "removed": removed})
    else:
        click.echo(f"{removed} removed.")
    return 0


@catalog.command("import")
@click.argument("what", metavar="unsloth|FILE", type=FilePath())
@click.option("--mapper", type=FilePath(path_type=Path), help="unsloth's mapper.py.")
@click.option("--loader-utils", type=FilePath(path_type=Path), help="Its loader_utils.py.")
@_dry
@never_asks
@_json
def import_(what: str, mapper: Path | None, loader_utils: Path | None, dry_run: bool,
            as_json: bool) -> int:  # fmt: skip
    """Import the installed unsloth package's table, or a TOML, JSON or CSV file.

    Python is parsed, never executed. One transaction replaces the same source's earlier rows; your
    own are not touched.
    """
    from mdl.resolver import read_catalog_file, read_unsloth

    bad: tuple[BadMirror, ...] = ()
    if what == "unsloth":
        source, rows, bad = read_unsloth(mapper, loader_utils)
    elif mapper is not None or loader_utils is not None:
        raise UsageError(
            "--mapper and --loader-utils go with `import unsloth`.",
            next="Leave them out, or write: mdl catalog import unsloth --mapper PATH.",
        )
    else:
        source, rows = read_catalog_file(Path(what))
    if not dry_run:
        _open().import_rows(source, rows, bad)
    body = {"source": source._asdict(), "rows": len(rows), "bad_mirrors": len(bad),
            "dry_run": dry_run}  # fmt: skip
    if as_json:
        echo_json(body)
    else:
        verb = "Would import" if dry_run else "Imported"
        what = f"{counted(len(rows), 'row')} and {counted(len(bad), 'bad mirror')}"
        click.echo(f"{verb} {what} from {source.origin} as source {source.name!r}.")
    return 0


@catalog.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--format", "formats", multiple=True, help="Only this format; may be repeated.")
@_dry
@never_asks
@_json
def sync(names: tuple[str, ...], formats: tuple[str, ...], dry_run: bool, as_json: bool) -> int:
    """Import mirrors of each NAME from the Hub's model tree."""
    from mdl.formats import parse_format
    from mdl.resolver import remember_tree, sync_mirrors

    wanted = {parse_format(format).format for format in formats}
    found, hub = _open(), _hub()
    body = []
    for name in names:
        canonical, rows = sync_mirrors(hub, name, wanted)
        if not dry_run:
            remember_tree(found, canonical, rows, formats=wanted)
        body.append({"name": canonical, "mirrors": [row._asdict() for row in rows]})
        if not as_json:
            click.echo(f"{canonical}: {counted(len(rows), 'mirror')}")
            if rows:
                click.echo(_rows_table(rows))
    if as_json:
        echo_json({"synced": body, "dry_run": dry_run})
    return 0


@catalog.command()
@click.argument("pattern", required=False)
@click.option("--source", help="Rows of one source only.")
@click.option(
    "--workers",
    type=click.IntRange(1, 32),
    default=8,
    show_default=True,
    help="Concurrent requests.",
)
@_dry
@never_asks
@_json
def check(pattern: str | None, source: str | None, workers: int, dry_run: bool,
          as_json: bool) -> int:  # fmt: skip
    """Check every mirror on the Hub; mark dead, renamed and mismatched ones."""
    from mdl.resolver import check_mirrors

    found, hub = _open(), _hub()
    rows = [
        row
        for row in found.mirrors(source=source)
        if not pattern or pattern.lower() in f"{row.name} {row.repo_id}".lower()
    ]
    if not rows:
        raise NotFoundError("No mirrors match.", next="`mdl catalog ls` lists them.")
    count = len({row.repo_id.lower() for row in rows})
    findings = []
    with progressbar(length=count, label="checking", file=sys.stderr, hidden=as_json) as bar:
        for batch in check_mirrors(hub, rows, workers):
            findings += batch
            bar.update(1)
            if not dry_run:
                found.mark(batch)
    wrong = sorted(f for f in findings if f.status != "ok")
    if as_json:
        echo_json({"checked": count, "wrong": [f._asdict() for f in wrong]})
    else:
        for finding in wrong:
            what = f"{finding.repo_id} for {finding.name}"
            click.echo(f"{finding.status:<9} {what}: {printable(finding.reason)}")
        checked = f"{counted(count, 'mirror')} checked"
        click.echo(f"{checked}; {len(wrong)} of {counted(len(findings), 'row')} wrong.")
    return 0


@catalog.command()
@click.option("--source", help="Rows of one source only.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["toml", "json", "csv"]),
    help="Else by the file's extension.",
)
@click.option(
    "--output",
    "-o",
    type=FilePath(path_type=Path, dir_okay=False),
    help="The file to write; else standard output.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the rows, or what was written.")
def export(source: str | None, kind: str | None, output: Path | None, as_json: bool) -> int:
    """Export rows as TOML, JSON or CSV, to share or import elsewhere."""
    from mdl.resolver import catalog_text

    if as_json and output is None:
        if kind not in (None, "json"):
            raise UsageError(f"--json contradicts --format {kind}.", next="Leave one of them out.")
        kind = "json"
    if kind is None:
        suffix = output.suffix.lstrip(".").lower() if output is not None else "toml"
        if suffix not in ("toml", "json", "csv"):
            raise UsageError(
                f"{output} has no known extension.", next="Add --format toml|json|csv."
            )
        kind = suffix
    rows = _open().mirrors(source=source)
    if not rows:
        raise NotFoundError(
            "There are no rows to export.", next="`mdl catalog ls --sources` lists the sources."
        )
    text = catalog_text(rows, kind)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text)
        if as_json:
            echo_json({"rows": len(rows), "output": str(output)})
            return 0
        click.echo(f"{counted(len(rows), 'row')} written to {output}.")
    return 0


def _hub() -> "HubApi":
    from mdl.errors import OfflineError
    from mdl.resolver import HubApi
    from mdl.settings import load_settings

    settings = load_settings()
    if settings.offline:
        raise OfflineError(
            "This needs the Hub, and HF_HUB_OFFLINE is set.", next="Unset it while connected."
        )
    return HubApi(settings.endpoint, settings.token, settings.hub_timeout)


def _status(row: MirrorRow) -> str:
    loads = f"runs in {', '.join(row.loads_in)}" if row.runtimes else ""
    return " ".join(filter(None, (row.status or ("" if loads else "-"), row.status_reason, loads)))


def _rows_table(rows: list[MirrorRow]) -> str:
    return table(
        ["NAME", "FORMAT", "MIRROR", "WEIGHTS", "RANK", "RELATION", "SOURCE", "STATUS"],
        [
            (r.name, r.format, r.repo_id, f"{r.weights} {r.variant}".strip(), str(r.rank),
             r.relation, r.source, _status(r))
            for r in rows
        ],
        right=("RANK",),
        spare=("SOURCE", "RELATION", "RANK", "STATUS", "WEIGHTS"),
    )  # fmt: skip


def _print_sources(found: Catalog, as_json: bool) -> int:
    sources = found.sources()
    if as_json:
        echo_json({"sources": sources})
    else:
        click.echo(
            table(
                ["SOURCE", "VERSION", "ROWS", "LICENCE", "ORIGIN", "IMPORTED"],
                [
                    (s["name"], s["version"], str(s["rows"]), s["licence"] or "-", s["origin"],
                     human_ago(s["imported_at"]))
                    for s in sources
                ],
                right=("ROWS",),
                spare=("LICENCE", "ORIGIN"),
            )
        )  # fmt: skip
    return 0
