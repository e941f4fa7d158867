"""The cache commands for pins, the trash and undo."""

from pathlib import Path
from typing import Any

import click

from mdl.cachemgr import parse_pin, pin_matches, waiting_note
from mdl.cli.cache.options import (
    DURATION,
    cache_dir_option,
    dry_option,
    json_option,
    opened,
    print_notes,
    type_option,
)
from mdl.cli.output import confirm, echo_json, never_asks, yes_option
from mdl.errors import NotFoundError
from mdl.formatting import human_ago, human_size, printable, table


@click.command("pin")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@type_option
@cache_dir_option
@dry_option
@never_asks
@json_option
def pin(
    names: tuple[str, ...],
    repo_type: str | None,
    cache_dir: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Protect NAME, NAME@revision or NAME@commit from pruning; without NAME, list the pins.

    A commit may be abbreviated to its first 7 characters or more. A pin holds for everyone who
    uses this cache.
    """
    found = opened(cache_dir)
    wanted = [parse_pin(name, repo_type) for name in names]
    repos = found.list() if wanted else []
    for name, pinned in zip(names, wanted, strict=True):
        if not pin_matches(pinned, repos):
            found.notes.append(waiting_note(name))
        if not dry_run:
            found.add_pin(*pinned)
    print_notes(found)
    if as_json:
        echo_json({"pins": found.pins})
        return
    rows = [
        (f"{row['repo_type']}/{row['repo_id']}", row["revision"] or "everything",
         human_ago(row["at"]))
        for row in found.pins
    ]  # fmt: skip
    click.echo(table(("REPOSITORY", "PINNED", "SINCE"), rows) if rows else "Nothing is pinned.")


@click.command("unpin")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@type_option
@cache_dir_option
@dry_option
@never_asks
@json_option
def unpin(
    names: tuple[str, ...],
    repo_type: str | None,
    cache_dir: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove pins, written as they were set. If one of them is not pinned, none is removed."""
    found = opened(cache_dir)
    pins = [parse_pin(name, repo_type) for name in names]
    for name, pinned in zip(names, pins, strict=True):
        if not found.is_pinned(pinned.key, pinned.revision):
            raise NotFoundError(f"{name} is not pinned.", next="`mdl cache pin` lists the pins.")
    for pinned in pins:
        if not dry_run:
            found.remove_pin(pinned.key, pinned.revision)
    print_notes(found)
    if as_json:
        echo_json({"pins": found.pins})
        return
    for pinned in pins:
        click.echo(f"{pinned.repo_id} {'would be' if dry_run else 'is'} no longer pinned.")


@click.group("trash")
def trash() -> None:
    """List, restore or empty the trash."""


@trash.command("ls")
@cache_dir_option
@json_option
def trash_list(cache_dir: Path | None, as_json: bool) -> None:
    """List what is in the trash, oldest first."""
    from mdl.cachemgr.remove import trash_entries, unknown_in_trash

    found = opened(cache_dir)
    present, unknown = trash_entries(found), unknown_in_trash(found)
    print_notes(found)
    if as_json:
        entries = [entry.to_json() for entry in present]
        echo_json({"entries": entries, "unknown": unknown})
        return
    rows = [
        (str(entry.id), entry.kind, human_size(entry.bytes), human_ago(entry.at), entry.summary)
        for entry in present
    ]
    header = ("NUMBER", "ACTION", "SIZE", "WHEN", "WHAT")
    click.echo(table(header, rows, right=("SIZE",)) if rows else "The trash is empty.")
    for path in unknown:
        click.echo(f"unknown, erased by `mdl cache trash empty`: {printable(path)}")


@trash.command("restore")
@click.argument("number", type=int)
@cache_dir_option
@dry_option
@never_asks
@json_option
def trash_restore(number: int, cache_dir: Path | None, dry_run: bool, as_json: bool) -> None:
    """Restore what one action moved to the trash."""
    from mdl.cachemgr.remove import restore

    found = opened(cache_dir)
    action = restore(found, number, dry_run=dry_run)
    print_notes(found)
    _print_undone(action, as_json=as_json, dry_run=dry_run)


@trash.command("empty")
@click.argument("numbers", type=int, nargs=-1)
@click.option("--older-than", type=DURATION, help="Only what has been there for this long.")
@cache_dir_option
@dry_option
@yes_option
@json_option
def trash_empty(
    numbers: tuple[int, ...],
    older_than: float | None,
    cache_dir: Path | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase the trash for good, or only the actions with these NUMBERS."""
    from mdl.cachemgr.remove import choose_trash, empty_trash, unknown_in_trash

    found = opened(cache_dir)
    chosen = choose_trash(found, numbers, older_than)
    unknown = unknown_in_trash(found) if not numbers and older_than is None else []
    ids = [entry.id for entry in chosen]
    size = sum(entry.bytes for entry in chosen)
    print_notes(found)
    if not dry_run:
        confirm(f"Erase {human_size(size)} for good?", yes=yes)
        size = empty_trash(found, ids, unknown)
    if as_json:
        echo_json({"dry_run": dry_run, "erased": ids, "freed": size})
    else:
        click.echo(f"{'Would free' if dry_run else 'Freed'} {human_size(size)}.")


@click.command("undo")
@cache_dir_option
@dry_option
@never_asks
@json_option
def undo(cache_dir: Path | None, dry_run: bool, as_json: bool) -> None:
    """Revert the last action: restore what was removed, separate what was shared."""
    from mdl.cachemgr.remove import undo_last

    found = opened(cache_dir)
    action = undo_last(found, dry_run=dry_run)
    print_notes(found)
    _print_undone(action, as_json=as_json, dry_run=dry_run)


def _print_undone(action: Any, *, as_json: bool, dry_run: bool = False) -> None:
    if as_json:
        echo_json(
            {"dry_run": dry_run, "action": action.id, "kind": action.kind,
             "summary": action.summary}
        )  # fmt: skip
    else:
        done = "Would revert" if dry_run else "Reverted"
        click.echo(f"{done} {action.kind} ({printable(action.summary)}).")
