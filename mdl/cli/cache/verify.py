"""`mdl cache verify`."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mdl.cachemgr.verify import Verifier, VerifyReport, select_folders, verification_error
from mdl.cli.cache.options import (
    SIZE,
    cache_dir_option,
    json_option,
    opened,
    print_notes,
    type_option,
)
from mdl.cli.output import echo_json, never_asks
from mdl.errors import VerificationError
from mdl.formatting import human_size, table


@click.command("verify")
@click.argument("names", nargs=-1)
@click.option("--repair", is_flag=True, help="Download bad files again, with huggingface_hub.")
@click.option("--again", is_flag=True, help="Also hash what was found good within the last day.")
@click.option("--throttle", type=SIZE, help="Read at most this much a second, such as 100MB.")
@click.option("--jobs", type=click.IntRange(min=1), help="Hash this many files in parallel.")
@type_option
@cache_dir_option
@click.option("--dry-run", is_flag=True, help="With --repair: show what is bad, change nothing.")
@never_asks
@json_option
def verify(
    names: tuple[str, ...],
    repo_type: str | None,
    cache_dir: Path | None,
    as_json: bool,
    **choice: Any,
) -> None:
    """Check NAMES, or everything: each file's content against its hash, each snapshot against its
    listing. Works offline; an interrupted run resumes where it stopped.

    Exit code 6 when something is bad.
    """
    found = opened(cache_dir)
    folders = select_folders(found, names, repo_type)
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
            shown["error"] = verification_error(len(failed)).to_json()
        echo_json(shown)
    else:
        _show(report, fixed, failed)
    if failed:
        raise click.exceptions.Exit(VerificationError.exit_code)


def _progress(as_json: bool) -> Callable[[int, int], None]:
    """Show bytes, speed and time left on one line, on a terminal only."""
    if as_json or not sys.stderr.isatty():
        return lambda done, total: None
    start = time.monotonic()

    def show(done: int, total: int) -> None:
        rate = done / max(time.monotonic() - start, 0.001)
        text = f"{human_size(done)} of {human_size(total)} hashed"
        if done and done < total:
            minutes, seconds = divmod(round((total - done) / rate), 60)
            text += f", {human_size(rate)}/s, {minutes}:{seconds:02} left"
        # Spaces over what a longer line left; the last one stays.
        click.echo(f"\r{text:60}", nl=total == done, err=True)

    return show


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
    counts = [f"{report.checked} files hashed ({human_size(report.bytes)})"]
    counts += [f"{report.skipped} found good recently"] if report.skipped else []
    unknown = f"{report.unknown} not checked because their hash is not known"
    counts += [unknown] if report.unknown else []
    counts += [f"{fixed} repaired"] if fixed else []
    click.echo(f"{', '.join(counts)}.")
    if failed:
        click.echo(f"error: {verification_error(len(failed))}", err=True)
    elif not fixed and report.unknown:
        checked = report.checked + report.skipped
        click.echo("Every checked file matches its hash." if checked else "Nothing was checked.")
    elif not fixed:
        click.echo("Everything matches its hash.")
