"""`mdl tree`."""

from typing import TYPE_CHECKING

import click

from mdl.cli.output import echo_json
from mdl.formatting import human_size, printable, table

if TYPE_CHECKING:
    from mdl.resolver import Family

_SHOWN = 6  # variants in one line


@click.command()
@click.argument("name")
@click.option("--offline", is_flag=True, help="Use the database and the cache alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tree(name: str, offline: bool, as_json: bool) -> None:
    """Show the family of NAME: the publisher's model, its copies, and what each request takes."""
    from mdl.local_resolver import resolver_for
    from mdl.resolver import family

    found = family(resolver_for(offline=True if offline else None), name)
    if as_json:
        echo_json(found.to_json())
    else:
        _print(found)


def _print(found: "Family") -> None:
    click.echo(printable(found.base))
    rows = []
    for member in found.members:
        names = [name for name, _ in member.variants if name]
        more = f" +{len(names) - _SHOWN}" if len(names) > _SHOWN else ""
        sizes = [size for _, size in member.variants if size is not None]
        size = human_size(member.size) if member.size else ""
        if sizes:
            size = f"{human_size(min(sizes))}–{human_size(max(sizes))}"
        cached = member.cached
        here = "" if cached is None else "yes" if cached.complete else "partly"
        gated = member.gated if member.gated not in (None, "false") else ""
        rows.append(
            [member.role, member.format, printable(member.repo_id),
             " ".join(names[:_SHOWN]) + more, size, gated or "", here,
             ", ".join(member.runtimes), printable(member.against)]
        )  # fmt: skip
    click.echo(
        table(
            ["ROLE", "FORMAT", "REPOSITORY", "VARIANTS", "SIZE", "GATED", "CACHED", "RUNS IN", ""],
            rows,
            spare=("RUNS IN", "VARIANTS", "GATED"),
        )
    )
    click.echo()
    for format, repo_id in found.requests.items():
        click.echo(f"  {format:<10} {'→ ' + repo_id if repo_id else 'not available'}")
