"""The cache commands that change something: each shows its plan, asks, and can be undone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdl.cachemgr import Cache, repo_key
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
    from mdl.cachemgr.remove import Item, Policy, PrunePlan


@click.command("prune")
@click.option("--max-size", type=SIZE, help="Shrink the cache below this, such as 200GB.")
@click.option("--keep-free", type=SIZE, help="Leave this much of the disk free.")
@click.option("--older-than", type=DURATION, help="Remove revisions not changed for so long.")
@click.option("--unused-for", type=DURATION, help="Remove revisions not used for so long.")
@click.option("--detached", is_flag=True, help="Remove revisions that no ref points to.")
@click.option("--incomplete", is_flag=True, help="Remove what broken-off downloads left.")
@click.option("--keep-last", type=click.IntRange(min=1), help="Keep so many revisions each.")
@click.option("--now", is_flag=True, help="Erase at once instead of keeping it in the trash.")
@cache_dir_option
@dry_option
@yes_option
@json_option
def prune(
    cache_dir: Path | None, dry_run: bool, yes: bool, as_json: bool, now: bool, **rules: Any
) -> None:
    """Remove what a policy says, into the trash.

    Without options the policy of the configuration file's [cache] table holds, and without one
    detached revisions and broken-off downloads go. Pins, lock files on record, running
    downloads and open files always win.
    """
    from mdl.cachemgr.remove import apply_prune, plan_prune

    found = opened(cache_dir)
    plan = plan_prune(found, policy_from(found, rules))
    print_notes(found)
    if not as_json:
        _show_plan(plan)
    if dry_run or not plan.remove:
        if as_json:
            echo_json({"dry_run": dry_run, **plan.to_json()})
        return
    confirm(f"Move {human_size(plan.freed)} into the trash?", yes=yes)
    outcome = apply_prune(found, plan)
    _erase_now(found, outcome, now=now)
    if as_json:
        echo_json({"dry_run": False, **plan.to_json(), **outcome.to_json()})
    else:
        show_outcome(outcome, erased=now)


def policy_from(found: Cache, rules: dict[str, Any]) -> "Policy":
    """The command line's policy; else the configuration's; else detached and incomplete."""
    from mdl.cachemgr.remove import Policy

    watermark = found.settings.cache.low_watermark
    policy = Policy(**rules, low_watermark=watermark)
    if policy.is_empty:
        policy = Policy.from_settings(found.settings.cache)
    if policy.is_empty:
        policy = Policy(detached=True, incomplete=True, low_watermark=watermark)
    return policy


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
            f"In the trash: {human_size(outcome.freed)}. `mdl cache undo` puts it back,"
            " `mdl cache trash empty` gives the room back to the disk."
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
    click.echo(f"\n{len(plan.remove)} to remove, which frees {human_size(plan.freed)}.")
    if plan.short:
        click.echo(f"That is still {human_size(plan.short)} short: the rest is protected.")


def _named(item: "Item") -> str:
    what = item.commit[:12] if item.commit else item.kind
    refs = f" ({', '.join(item.refs)})" if item.refs else ""
    return f"{item.repo_type}/{item.repo_id} {what}{refs}"


@click.command("rm")
@click.argument("target")
@click.option("--all-casings", is_flag=True, help="Every casing of the repository on disk.")
@click.option("--now", is_flag=True, help="Erase at once instead of keeping it in the trash.")
@type_option
@cache_dir_option
@dry_option
@yes_option
@json_option
def rm(
    target: str, repo_type: str | None, cache_dir: Path | None, as_json: bool, **choice: bool
) -> None:
    """Remove exactly one repository, revision or file, into the trash.

    TARGET is org/name, org/name@revision, org/name:path/to/file, org/name@revision:path, or a
    commit (7 characters or more); a type may stand in front, as in dataset/org/name. Of several
    casings on disk, the one written exactly so is meant. What could mean two things is refused.
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
    confirm(f"Move {human_size(plan.freed)} into the trash?", yes=choice["yes"])
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
    help="shared: one copy of the bytes, no folder moves; hub, lower: one folder, the other"
    " casings become links to it.",
)
@click.option("--across", is_flag=True, help="Join equal files of different repositories too.")
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
    as_json: bool,
    **choice: Any,
) -> None:
    """Make every casing of NAME, or of every repository, find one copy.

    `hub` asks the Hub for its spelling; `lower` is what portable caches use. A repository in
    which a download is running, or a file is open, is left alone and named.
    """
    from mdl.cachemgr.normalize import (
        NormalizeRequest,
        apply_normalize,
        hub_spelling,
        plan_normalize,
    )

    found = opened(cache_dir)
    only = None
    if name is not None:
        repo = found.repo(name, repo_type)
        only = repo_key(repo.repo_type, repo.repo_id)
    default = found.settings.cache.normalize
    to = choice["to"] or (default if default != "off" else "shared")
    request = NormalizeRequest(to, only, choice["across"], choice["store"], repo_type)
    planned = plan_normalize(found, request, hub_spelling(found))
    print_notes(found)
    if not as_json:
        _show_normalize(planned)
    if dry_run or not planned.work:
        if as_json:
            echo_json({"dry_run": dry_run, **planned.to_json()})
        return
    confirm(f"Normalize {len(planned.work)} repositories?", yes=choice["yes"])
    outcome = apply_normalize(found, planned)
    if as_json:
        echo_json({"dry_run": False, **planned.to_json(), **outcome.to_json()})
        return
    for repo_id, reason in outcome.skipped.items():
        click.echo(f"left alone: {printable(repo_id)}: {reason}")
    click.echo(f"Normalized {len(outcome.done)}, {human_size(outcome.saved)} saved.")


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
