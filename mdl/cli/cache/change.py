"""The cache commands that change something: each shows its plan, asks, and can be undone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdl.cachemgr import Cache
from mdl.cachemgr.remove import Outcome
from mdl.cli.cache.listing import print_notes
from mdl.cli.cache.options import (
    DURATION,
    SIZE,
    cache_dir_option,
    dry_option,
    json_option,
    opened,
    type_option,
)
from mdl.cli.output import confirm, echo_json, yes_option
from mdl.formatting import human_size, printable, table

if TYPE_CHECKING:
    from mdl.cachemgr.remove import Item, PrunePlan


@click.command("prune")
@click.option("--max-size", type=SIZE, help="Shrink the cache below this, such as 200GB.")
@click.option("--keep-free", type=SIZE, help="Leave this much of the disk free.")
@click.option("--older-than", type=DURATION, help="Remove revisions not changed for this long.")
@click.option("--unused-for", type=DURATION, help="Remove revisions not used for this long.")
@click.option("--detached", is_flag=True, help="Remove revisions that no ref points to.")
@click.option("--incomplete", is_flag=True, help="Remove what interrupted downloads left.")
@click.option("--keep-last", type=click.IntRange(min=1), help="Keep this many revisions of each.")
@click.option("--now", is_flag=True, help="Erase immediately instead of moving to the trash.")
@cache_dir_option
@dry_option
@yes_option
@json_option
def prune(
    cache_dir: Path | None, dry_run: bool, yes: bool, as_json: bool, now: bool, **rules: Any
) -> None:
    """Move what a policy selects to the trash.

    Without options, the policy in the [cache] table of the configuration file applies; without
    that, detached revisions and interrupted downloads are removed. Whatever is pinned, in a
    registered lock file, being downloaded or open in a process is kept.
    """
    from mdl.cachemgr.remove import Policy, apply_prune, plan_prune

    found = opened(cache_dir)
    plan = plan_prune(found, Policy(**rules).or_default(found.settings.cache))
    print_notes(found)
    if not as_json:
        _show_plan(plan)
    if dry_run or not plan.remove:
        if as_json:
            echo_json({"dry_run": dry_run, **plan.to_json()})
        return
    confirm(f"Move {human_size(plan.freed)} to the trash?", yes=yes)
    outcome = apply_prune(found, plan)
    _erase_now(found, outcome, now=now)
    if as_json:
        echo_json({"dry_run": False, **plan.to_json(), **outcome.to_json()})
    else:
        show_outcome(outcome, erased=now)


def _erase_now(found: Cache, outcome: Outcome, *, now: bool) -> None:
    if now and outcome.action_id is not None:
        from mdl.cachemgr.remove import empty_trash

        empty_trash(found, [outcome.action_id])


def show_outcome(outcome: Outcome, *, erased: bool = False) -> None:
    for folder, reason in outcome.skipped.items():
        click.echo(f"left alone: {printable(folder)}: {reason}")
    if outcome.action_id is None:
        click.echo("Nothing was removed.")
    elif erased:
        click.echo(f"Erased: {human_size(outcome.freed)}.")
    else:
        click.echo(
            f"Moved {human_size(outcome.freed)} to the trash. `mdl cache undo` restores it,"
            " `mdl cache trash empty` frees the space."
        )
    if outcome.note:
        click.echo(f"note: {outcome.note}")


def _show_plan(plan: "PrunePlan") -> None:
    rows = [("keep", _named(keep.item), "-", keep.reason) for keep in plan.keep]
    rows += [
        ("remove", _named(remove.item), human_size(remove.bytes), remove.reason)
        for remove in plan.remove
    ]
    if rows:
        click.echo(table(("", "WHAT", "FREES", "WHY"), rows, right=("FREES",)))
    click.echo(f"\n{len(plan.remove)} to remove, freeing {human_size(plan.freed)}.")
    if plan.short:
        click.echo(f"That is {human_size(plan.short)} short of the goal: the rest is protected.")


def _named(item: "Item") -> str:
    what = item.commit[:12] if item.commit else item.kind
    refs = f" ({', '.join(item.refs)})" if item.refs else ""
    return f"{item.repo_type}/{item.repo_id} {what}{refs}"


@click.command("rm")
@click.argument("target")
@click.option("--all-casings", is_flag=True, help="Remove every casing of the repository on disk.")
@click.option("--now", is_flag=True, help="Erase immediately instead of moving to the trash.")
@type_option
@cache_dir_option
@dry_option
@yes_option
@json_option
def rm(
    target: str, repo_type: str | None, cache_dir: Path | None, as_json: bool, **choice: bool
) -> None:
    """Move exactly one repository, revision or file to the trash.

    TARGET is org/name, org/name@revision, org/name:path/to/file, org/name@revision:path, or a
    commit (7 characters or more), optionally with a type in front, as in dataset/org/name. Of
    several casings on disk, only the one spelled exactly so is removed. An ambiguous target is an
    error.
    """
    from mdl.cachemgr.remove import apply_remove, plan_remove

    found = opened(cache_dir)
    plan = plan_remove(found, target, repo_type, casings=choice["all_casings"])
    print_notes(found)
    if not as_json:
        for name, removal in plan.removals.items():
            what = "the whole folder" if removal.whole else f"{len(removal.commits)} revision(s)"
            what = f"{len(removal.files)} file(s)" if removal.files else what
            click.echo(f"{printable(name)}: {what}")
        click.echo(f"frees {human_size(plan.freed)}")
    if choice["dry_run"]:
        if as_json:
            echo_json({"dry_run": True, **plan.to_json()})
        return
    confirm(f"Move {human_size(plan.freed)} to the trash?", yes=choice["yes"])
    outcome = apply_remove(found, plan)
    _erase_now(found, outcome, now=choice["now"])
    if as_json:
        echo_json({"dry_run": False, **plan.to_json(), **outcome.to_json()})
    else:
        show_outcome(outcome, erased=choice["now"])


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
    confirm(f"Normalize {len(planned.work)} repositories?", yes=yes)
    outcome = apply_normalize(found, planned)
    if as_json:
        echo_json({"dry_run": False, **planned.to_json(), **outcome.to_json()})
        return
    for repo_id, reason in outcome.skipped.items():
        click.echo(f"left alone: {printable(repo_id)}: {reason}")
    click.echo(f"Normalized {len(outcome.done)}, saving {human_size(outcome.saved)}.")


def _show_normalize(planned: Any) -> None:
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
