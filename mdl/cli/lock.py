"""`mdl lock`."""

from pathlib import Path
from typing import Any

import click

from mdl.cli.output import FilePath, echo_json
from mdl.cli.resolve import format_options, resolve_arguments
from mdl.formatting import counted


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--output",
    "-o",
    type=FilePath(path_type=Path, dir_okay=False),
    default=Path("mdl.lock"),
    show_default=True,
    help="The file to write.",
)
@click.option("--add", is_flag=True, help="Keep the other entries of an existing file.")
@format_options
@click.option("--dry-run", is_flag=True, help="Print the file, write nothing.")
@click.option("-y", "--yes", is_flag=True, help="Overwrite without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lock(names: tuple[str, ...], output: Path, add: bool, dry_run: bool, yes: bool, as_json: bool,
         **flags: Any) -> int:  # fmt: skip
    """Lock each NAME to what it resolves to now: commits and file hashes.

    The cache keeps the locked commits: pruning removes none of them.
    """
    from mdl import local_resolver
    from mdl.cli.output import confirm
    from mdl.resolver import lock_text

    if output.exists() and not (add or dry_run):
        confirm(f"Overwrite {output}?", yes=yes)
    arguments = resolve_arguments(flags, *names)
    entries = local_resolver.lock(names, output, add=add, dry_run=dry_run, **arguments)
    made = entries[-len({name.strip().lower() for name in names}) :]
    if as_json:
        echo_json({"file": str(output), "dry_run": dry_run, "models": [
            {"requested": e.requested, "repo_id": e.repo_id, "commit": e.commit,
             "upstream_commit": e.upstream_commit, "files": len(e.files)} for e in made
        ]})  # fmt: skip
    elif dry_run:
        click.echo(lock_text(entries), nl=False)
    else:
        for entry in made:
            click.echo(f"{entry.requested} → {entry.repo_id} @ {entry.commit[:12]}")
        click.echo(f"{output}: {counted(len(entries), 'model')}")
    return 0
