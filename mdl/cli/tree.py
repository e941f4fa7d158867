"""`mdl tree`."""

from typing import TYPE_CHECKING

import click

from mdl.cli.output import echo_json
from mdl.formatting import printable, table

if TYPE_CHECKING:
    from mdl.resolver import Family, Member


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
        print_family(found)


def print_family(found: "Family") -> None:
    """Print a family's members, and what each request takes."""
    click.echo(printable(found.base))
    rows = []
    for member in found.members:
        cached = member.cached
        here = "" if cached is None else "yes" if cached.complete else "partly"
        rows.append(
            [member.role, member.format, printable(member.repo_id), member.variants_text,
             member.size_text, _access(member), here, ", ".join(member.runtimes),
             printable(member.against)]
        )  # fmt: skip
    click.echo(
        table(
            ["ROLE", "FORMAT", "REPOSITORY", "VARIANTS", "SIZE", "ACCESS", "CACHED", "RUNS IN", ""],
            rows,
            spare=("RUNS IN", "VARIANTS", "ACCESS"),
        )
    )
    click.echo()
    for format, repo_id in found.requests.items():
        click.echo(f"  {format:<10} {'→ ' + repo_id if repo_id else 'not available'}")


def _access(member: "Member") -> str:
    """Empty for what anyone may read."""
    if member.gated in (None, "false"):
        return ""
    known = "" if member.access == "unknown" else f", {member.access.replace('_', ' ')}"
    return f"gated: {member.gated}{known}"
