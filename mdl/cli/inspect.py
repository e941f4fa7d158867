"""`mdl inspect`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdl.cli.output import FilePath, echo_json
from mdl.errors import UsageError
from mdl.formatting import human_size, printable, table

if TYPE_CHECKING:
    from mdl.formats import Format


@click.command()
@click.argument("name", required=False)
@click.option("--revision", help="A branch, tag or commit.")
@click.option("--offline", is_flag=True, help="Look only at what is in the cache.")
@click.option(
    "--from-json",
    "described",
    type=FilePath(path_type=Path, allow_dash=True),
    help="Judge a description {name, files, config, other_files, tags}; - reads standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(
    name: str | None, revision: str | None, offline: bool, described: Path | None, as_json: bool
) -> None:
    """Show the format of the weights of NAME, a repository or a folder, and the proof of it."""
    if described is not None:
        if name is not None or revision is not None:
            raise UsageError(
                "--from-json takes neither a name nor a revision.",
                next="Leave out the name and --revision, or --from-json.",
            )
        body = _read(described)
        name, found = str(body.get("name") or "it"), _judge(body)
    elif name is None:
        raise UsageError("Which name?", next="mdl inspect org/name, or --from-json FILE")
    else:
        from mdl.local_resolver import inspect as inspect_name

        found = inspect_name(name, revision=revision, offline=True if offline else None)
    if as_json:
        echo_json({"name": name, **found.to_json()})
    else:
        _print(name, found)


def _read(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(sys.stdin.read() if str(path) == "-" else path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is not JSON.", why=str(error), next="See mdl inspect --help for its fields."
        ) from error
    if not isinstance(body, dict):
        raise UsageError(f"{path} is not a JSON object.", next="See mdl inspect --help.")
    return body


def _judge(body: dict[str, Any]) -> "Format":
    from mdl.formats import description_from_json, recognize

    return recognize(description_from_json(body))


def _print(name: str, found: "Format") -> None:
    bits = "" if found.bits_per_weight is None else f", {found.bits_per_weight:g} bits a weight"
    click.echo(f"{printable(name)}: {found.format or 'no weights'}{bits}")
    if found.runtimes:
        click.echo(f"  runs in  {', '.join(found.runtimes)}")
    if found.also:
        click.echo(f"  also     {', '.join(found.also)}")
    for line in found.evidence:
        click.echo(f"  because  {printable(line)}")
    for line in found.contradictions:
        click.echo(f"  but      {printable(line)}")
    named = [(variant.name, variant) for variant in found.variants]
    named += [(f"mmproj {projector.name}", projector) for projector in found.projectors]
    rows = [
        [label, human_size(variant.size), variant.files[0].path]
        for label, variant in named
        if variant.files
    ]
    if rows:
        click.echo()
        click.echo(table(["VARIANT", "SIZE", "FIRST FILE"], rows, right=["SIZE"]))
