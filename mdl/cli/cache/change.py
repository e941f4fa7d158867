"""The cache commands that change something: each shows its plan, asks, and can be undone."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdl.cli.cache.options import (
    DURATION,
    SIZE,
    cache_dir_option,
    dry_option,
    json_option,
    opened,
    print_notes,
    type_option,
)
from mdl.cli.output import confirm, echo_json, yes_option
from mdl.errors import MdlError, UsageError
from mdl.formatting import human_size, printable, table

if TYPE_CHECKING:
    from mdl.cachemgr import Cache
    from mdl.cachemgr.normalize import NormalizePlan
    from mdl.cachemgr.remove import Item, Outcome, PrunePlan, RemovePlan

now_option = click.option(
    "--now", is_flag=True, help="Erase for good instead of moving to the trash."
)


@click.command("prune")
@click.option("--max-size", type=SIZE, help="Shrink the cache below this, such as 200GB.")
@click.option("--keep-free", type=SIZE, help="Leave this much of the disk free.")
@click.option("--older-than", type=DURATION, help="Remove revisions not changed for this long.")
@click.option("--unused-for", type=DURATION, help="Remove revisions not used for this long.")
@click.option("--detached", is_flag=True, help="Remove revisions that no ref points to.")
@click.option("--incomplete", is_flag=True, help="Remove what interrupted downloads left.")
@click.option("--keep-last", type=click.IntRange(min=1), help="Keep this many revisions of each.")
@click.option("-i", "--interactive", is_flag=True, help="Choose from the list what is removed.")
@click.option("-v", "--verbose", is_flag=True, help="Also list what is kept, and why.")
@now_option
@cache_dir_option
@dry_option
@yes_option
@json_option
def prune(
    cache_dir: Path | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    now: bool,
    interactive: bool,
    verbose: bool,
    **rules: Any,
) -> None:
    """Move what a policy selects to the trash.

    Without options, the policy in the [cache] table of the configuration file applies; without
    that, detached revisions and interrupted downloads are removed. Whatever is pinned, in a
    registered lock file, being downloaded or open in a process is kept.
    """
    from mdl.cachemgr.remove import Policy, apply_prune, plan_prune, removal_effect

    if interactive and (yes or as_json):
        raise UsageError(
            "--interactive asks, so it goes with neither --yes nor --json.", next="Leave one out."
        )
    found = opened(cache_dir)
    now = now or not found.settings.cache.trash_days
    plan = plan_prune(found, Policy(**rules).or_default(found.settings.cache))
    print_notes(found)
    if not as_json:
        _show_plan(plan, now=now, verbose=verbose, numbered=interactive)
    if interactive and plan.remove and not dry_run:
        plan = plan.only(_choose(len(plan.remove)))
    if dry_run or not plan.remove:
        if as_json:
            echo_json({"dry_run": dry_run, **plan.to_json()})
        return
    confirm(f"{removal_effect(found, plan.freed, now=now)}?", yes=yes)
    outcome = apply_prune(found, plan)
    _finish(found, plan, outcome, now=now, as_json=as_json)


def _finish(
    found: "Cache", plan: "PrunePlan | RemovePlan", outcome: "Outcome", *, now: bool, as_json: bool
) -> None:
    if now:
        from mdl.cachemgr.remove import erase_removed

        erase_removed(found, outcome.action_id)
    if as_json:
        echo_json({"dry_run": False, **plan.to_json(), **outcome.to_json()})
        return
    for folder, reason in outcome.skipped.items():
        click.echo(f"left alone: {printable(folder)}: {reason}")
    if outcome.action_id is None:
        click.echo("Nothing was removed.")
    elif now:
        click.echo(f"Erased {human_size(outcome.freed)}.")
    else:
        click.echo(
            f"Moved {human_size(outcome.freed)} to the trash. `mdl cache undo` restores it,"
            " `mdl cache trash empty` frees the space."
        )
    if outcome.note:
        click.echo(f"note: {outcome.note}")


def _effect(size: int, *, now: bool) -> str:
    """What becomes of so many bytes."""
    if now:
        return f"Erases {human_size(size)} for good"
    return f"Moves {human_size(size)} to the trash; `mdl cache trash empty` frees it"


def _show_plan(plan: "PrunePlan", *, now: bool, verbose: bool, numbered: bool) -> None:
    kept = f", keeps {len(plan.keep)}" if plan.keep else ""
    hint = "" if verbose or not plan.keep else " (--verbose lists them)"
    if plan.remove:
        click.echo(f"Removes {len(plan.remove)}{kept}{hint}. {_effect(plan.freed, now=now)}.")
    else:
        click.echo(f"Nothing to remove{kept and kept.replace('keeps', 'kept')}{hint}.")
    if plan.short:
        click.echo(f"That is {human_size(plan.short)} short of the goal: the rest is protected.")
    if plan.remove:
        header = ["REMOVE", "SIZE", "WHY"]
        rows = [[_named(each.item), human_size(each.bytes), each.reason] for each in plan.remove]
        if numbered:
            header.insert(0, "")
            rows = [[str(place), *row] for place, row in enumerate(rows, start=1)]
        click.echo(f"\n{table(header, rows, right=('', 'SIZE'))}")
    if verbose and plan.keep:
        kept_rows = [(_named(keep.item), keep.reason) for keep in plan.keep]
        click.echo(f"\n{table(('KEEP', 'WHY'), kept_rows)}")


def _choose(count: int) -> set[int]:
    """Ask for numbers such as `1 3-5`, and return them as places from 0.

    Raises:
        UsageError: there is no terminal.
        MdlError: none were chosen.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            "--interactive needs a terminal.", next="Leave it out, or run it in a terminal."
        )
    while True:
        text = click.prompt("Remove which (such as 1 3-5, all, none)", default="none", err=True)
        chosen = parse_choice(text, count)
        if chosen:
            return chosen
        if chosen is not None:
            raise MdlError("Cancelled: nothing was changed.", next="Choose some of the numbers.")
        click.echo(f"Write numbers from 1 to {count}, ranges of them, all or none.", err=True)


def parse_choice(text: str, count: int) -> set[int] | None:
    """The places from 0 that `1 3-5`, `all` or `none` mean; `None` where it means nothing."""
    words = text.replace(",", " ").casefold().split()
    if words in (["all"], ["none"]):
        return set(range(count)) if words == ["all"] else set()
    chosen: set[int] = set()
    for word in words:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= count:
            return None
        chosen.update(range(first - 1, last))
    return chosen or None


def _named(item: "Item") -> str:
    what = item.commit[:12] if item.commit else item.kind
    refs = f" ({', '.join(item.refs)})" if item.refs else ""
    variants = f", {len(item.formats)} variants" if len(item.formats) > 1 else ""
    return f"{item.repo_type}/{item.repo_id} {what}{refs}{variants}"


@click.command("rm")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--all-casings", is_flag=True, help="Remove every casing of the repository on disk.")
@now_option
@type_option
@cache_dir_option
@dry_option
@yes_option
@json_option
def rm(
    targets: tuple[str, ...],
    repo_type: str | None,
    cache_dir: Path | None,
    as_json: bool,
    **choice: bool,
) -> None:
    """Move exactly these repositories, revisions or files to the trash, as one action.

    TARGET is org/name, org/name@revision, org/name:path/to/file, org/name@revision:path,
    org/name:VARIANT (as in :Q4_K_M), or a commit (7 characters or more), optionally with a type in
    front, as in dataset/org/name. Of several casings on disk, only the one spelled exactly so is
    removed. If one of the targets is ambiguous, protected or in use, nothing is removed.
    """
    from mdl.cachemgr.remove import apply_remove, plan_remove, removal_effect

    found = opened(cache_dir)
    now = choice["now"] or not found.settings.cache.trash_days
    plan = plan_remove(found, *targets, repo_type=repo_type, casings=choice["all_casings"])
    print_notes(found)
    if not as_json:
        for name, removal in plan.removals.items():
            click.echo(f"{printable(name)}: {removal}")
        click.echo(f"{_effect(plan.freed, now=now)}.")
    if choice["dry_run"]:
        if as_json:
            echo_json({"dry_run": True, **plan.to_json()})
        return
    confirm(f"{removal_effect(found, plan.freed, now=now)}?", yes=choice["yes"])
    outcome = apply_remove(found, plan)
    _finish(found, plan, outcome, now=now, as_json=as_json)


@click.command("normalize")
@click.argument("name", required=False)
@click.option(
    "--to",
    type=click.Choice(["shared", "hub", "lower"]),
    help="shared: files share their bytes, and no folder moves. hub, lower: one folder, named as on"
    " the Hub or in lower case; the other casings become links to it.",
)
@click.option("--across", is_flag=True, help="Share equal files of different repositories too.")
@click.option("--store", is_flag=True, help="Move older files into hf's shared blob store.")
@type_option
@cache_dir_option
@dry_option
@yes_option
@json_option
def normalize(
    name: str | None,
    repo_type: str | None,
    cache_dir: Path | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **choice: Any,
) -> None:
    """Make every casing of NAME, or of every repository, find the same copy.

    `hub` asks the Hub for its spelling; `lower` is what portable caches use. Repositories with a
    running download or an open file are left alone and named.
    """
    from mdl.cachemgr.normalize import (
        NormalizeRequest,
        apply_normalize,
        hub_spelling,
        plan_normalize,
    )

    found = opened(cache_dir)
    request = NormalizeRequest.of(found, name, repo_type, **choice)
    planned = plan_normalize(found, request, hub_spelling(found))
    print_notes(found)
    if not as_json:
        _show_normalize(planned)
    if dry_run or not planned.work:
        if as_json:
            echo_json({"dry_run": dry_run, **planned.to_json()})
        return
    confirm(_normalize_question(planned), yes=yes)
    outcome = apply_normalize(found, planned)
    if as_json:
        echo_json({"dry_run": False, **planned.to_json(), **outcome.to_json()})
        return
    for repo_id, reason in outcome.skipped.items():
        click.echo(f"left alone: {printable(repo_id)}: {reason}")
    click.echo(f"Normalized {len(outcome.done)}, saving {human_size(outcome.saved)}.")


def _normalize_question(planned: "NormalizePlan") -> str:
    count, request = len(planned.work), planned.request
    repos = f"{count} {'repository' if count == 1 else 'repositories'}"
    saves = f"saving {human_size(planned.saved)} at once"
    if request.to == "shared":
        done = f"Store equal files of {repos} only once, {saves}"
    else:
        name = "the Hub's spelling" if request.to == "hub" else "lower case"
        done = f"Keep {repos} in one folder each, named in {name}, {saves}"
    if request.store:
        done += ", and move older files into the shared blob store"
    return f"{done}?"


def _show_normalize(planned: "NormalizePlan") -> None:
    rows = [
        (
            group.repo_id,
            ", ".join(group.spellings),
            str(group.operations),
            human_size(group.saved),
            group.skipped,
        )
        for group in planned.groups
    ]
    header = ("REPOSITORY", "SPELLINGS", "STEPS", "SAVES", "LEFT ALONE BECAUSE")
    click.echo(table(header, rows, right=("STEPS", "SAVES")) if rows else "Nothing to normalize.")
    for note in planned.notes:
        click.echo(f"note: {note}")
