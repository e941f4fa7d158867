"""`mdl cache verify`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mdl.cachemgr.verify import Verifier, VerifyReport, chosen, refusal
from mdl.cli.cache.listing import print_notes
from mdl.cli.cache.options import (
    SIZE,
    cache_dir_option,
    json_option,
    opened,
    type_option,
)
from mdl.cli.output import echo_json, never_asks
from mdl.errors import UsageError, VerificationError
from mdl.formatting import human_size, table


@click.command("verify")
@click.argument("names", nargs=-1)
@click.option("--repair", is_flag=True, help="Fetch what is bad again, through huggingface_hub.")
@click.option("--again", is_flag=True, help="Hash what a run of the last day found right, too.")
@click.option("--throttle", type=SIZE, help="Read at most so much a second, such as 100MB.")
@click.option("--jobs", type=click.IntRange(min=1), help="Files hashed at once; default: cores.")
@type_option
@cache_dir_option
@click.option("--dry-run", is_flag=True, help="With --repair: say what is bad, fetch nothing.")
@never_asks
@json_option
def verify(
    names: tuple[str, ...],
    repo_type: str | None,
    cache_dir: Path | None,
    as_json: bool,
    **choice: Any,
) -> None:
    """Check NAMES, or everything: each file's content against its name, each snapshot against
    its listing. Offline; a broken-off run goes on where it was.

    Exit code 6 when something is bad.
    """
    if choice["throttle"] == 0:
        raise UsageError("--throttle 0 would read nothing.", next="Leave it out, or write more.")
    found = opened(cache_dir)
    folders = chosen(found, names, repo_type)
    verifier = Verifier(
        os.fspath(found.root),
        found.index,
        workers=choice["jobs"],
        rate=choice["throttle"],
        again=choice["again"],
        progress=_progress(as_json),
    )
    report = verifier.run(folders)
    print_notes(found)
    fixed, failed = 0, [(bad, "") for bad in report.bad]
    if choice["repair"] and report.bad and not choice["dry_run"]:
        from mdl.cachemgr.verify import repair_cache

        repaired = repair_cache(found, report.bad)
        fixed, failed = repaired.fixed, list(repaired.failed)
    if as_json:
        still = [{**bad.to_json(), "why": why} for bad, why in failed]
        shown = {"root": str(found.root), **report.to_json(), "repaired": fixed, "remaining": still}
        if failed:
            shown["error"] = refusal(len(failed)).to_json()
        echo_json(shown)
    else:
        _show(report, fixed, failed)
    if failed:
        raise click.exceptions.Exit(VerificationError.exit_code)


def _progress(as_json: bool) -> Callable[[int, int], None]:
    """A line that renews itself, on a terminal only."""
    if as_json or not sys.stderr.isatty():
        return lambda done, total: None

    def say(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        click.echo(f"\r{human_size(done)} of {human_size(total)} hashed ", nl=False, err=True)
        click.echo(end, nl=False, err=True)

    return say


def _show(report: VerifyReport, fixed: int, failed: list[Any]) -> None:
    rows = [
        (
            bad.folder,
            ", ".join(path for _, path in bad.files[:2]) or bad.blob or "",
            bad.problem,
            why,
        )
        for bad, why in failed
    ]
    if rows:
        click.echo(table(("FOLDER", "FILE", "PROBLEM", "NOT REPAIRED BECAUSE"), rows))
    said = [f"{report.checked} files hashed ({human_size(report.bytes)})"]
    said += [f"{report.skipped} known to be right"] if report.skipped else []
    said += [f"{report.unknown} with names that are no hash"] if report.unknown else []
    said += [f"{fixed} repaired"] if fixed else []
    click.echo(f"{', '.join(said)}.")
    if failed:
        click.echo(f"error: {refusal(len(failed))}", err=True)
    elif not fixed:
        click.echo("Everything is what its name says.")
