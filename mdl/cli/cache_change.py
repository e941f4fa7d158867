"""The cache commands that change something: each shows its plan, asks, and can be undone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdl.cachemgr.cache import Cache, split_name
from mdl.cachemgr.carry_out import Outcome
from mdl.cachemgr.layout import folder_name, repo_key
from mdl.cli.cache_common import (
    DURATION,
    SIZE,
    cache_dir_option,
    dry_option,
    json_option,
    opened,
    say_notes,
    type_option,
    yes_option,
)
from mdl.cli.output import (
    confirm,
    echo_json,
    human_ago,
    human_size,
    never_asks,
    printable,
    table,
)
from mdl.errors import NotFoundError

if TYPE_CHECKING:
    from mdl.cachemgr.policy import Item, Policy, PrunePlan


def agree(question: str, *, yes: bool) -> None:
    """Ask; a no ends the command with nothing changed."""
    if not confirm(question, yes=yes):
        raise click.Abort


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
    found = opened(cache_dir)
    plan = found.plan_prune(policy_from(found, rules))
    say_notes(found)
    if not as_json:
        _show_plan(plan)
    if dry_run or not plan.remove:
        if as_json:
            echo_json({"dry_run": dry_run, **plan.to_json()})
        return
    agree(f"Move {human_size(plan.freed)} into the trash?", yes=yes)
    outcome = found.apply(plan)
    _erase_now(found, outcome, now=now)
    if as_json:
        echo_json({"dry_run": False, **plan.to_json(), **outcome_json(outcome)})
    else:
        show_outcome(outcome, erased=now)


def policy_from(found: Cache, rules: dict[str, Any]) -> "Policy":
    """The command line's policy; else the configuration's; else detached and incomplete."""
    from mdl.cachemgr.policy import Policy

    watermark = found.settings.cache.low_watermark
    policy = Policy(**rules, low_watermark=watermark)
    if policy.is_empty:
        policy = Policy.from_settings(found.settings.cache)
    if policy.is_empty:
        policy = Policy(detached=True, incomplete=True, low_watermark=watermark)
    return policy


def _erase_now(found: Cache, outcome: Outcome, *, now: bool) -> None:
    if now and outcome.action_id is not None:
        from mdl.cachemgr.remove import empty

        empty(found, [outcome.action_id])


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "action": outcome.action_id,
        "freed": outcome.freed,
        "trash": outcome.trash,
        "skipped": dict(outcome.skipped),
    }


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
        click.echo(table(("", "WHAT", "FREES", "WHY"), rows, right=(2,)))
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
    say_notes(found)
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
    agree(f"Move {human_size(plan.freed)} into the trash?", yes=choice["yes"])
    outcome = apply_remove(found, plan)
    _erase_now(found, outcome, now=choice["now"])
    if as_json:
        echo_json({"dry_run": False, **plan.to_json(), **outcome_json(outcome)})
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
    from mdl.cachemgr.normalize_run import apply
    from mdl.cachemgr.normalizing import Wish, hub_spelling, plan

    found = opened(cache_dir)
    only = None
    if name is not None:
        repo = found.repo(name, repo_type)
        only = repo_key(repo.repo_type, repo.repo_id)
    default = found.settings.cache.normalize
    to = choice["to"] or (default if default != "off" else "shared")
    wish = Wish(to, only, choice["across"], choice["store"])
    planned = plan(found, wish, hub_spelling(found))
    say_notes(found)
    if not as_json:
        _show_normalize(planned)
    if dry_run or not planned.work:
        if as_json:
            echo_json({"dry_run": dry_run, **planned.to_json()})
        return
    agree(f"Normalize {len(planned.work)} repositories?", yes=choice["yes"])
    outcome = apply(found, planned)
    if as_json:
        done = {"action": outcome.action_id, "saved": outcome.saved, "done": list(outcome.done),
                "skipped": dict(outcome.skipped)}  # fmt: skip
        echo_json({"dry_run": False, **planned.to_json(), **done})
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
    click.echo(table(header, rows, right=(2, 3)) if rows else "Nothing to normalize.")
    for note in planned.notes:
        click.echo(f"note: {note}")


@click.command("pin")
@click.argument("name", required=False)
@type_option
@cache_dir_option
@dry_option
@never_asks
@json_option
def pin(
    name: str | None, repo_type: str | None, cache_dir: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Keep NAME, NAME@revision or NAME@commit from every prune; without NAME, list the pins."""
    found = opened(cache_dir)
    if name is not None:
        key, revision, repo_id = _pinned_name(name, repo_type)
        if not dry_run:
            found.index.add_pin(key, revision, repo_id)
    say_notes(found)
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
@click.argument("name")
@type_option
@cache_dir_option
@dry_option
@never_asks
@json_option
def unpin(
    name: str, repo_type: str | None, cache_dir: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Take a pin away, written as it was set."""
    found = opened(cache_dir)
    key, revision, repo_id = _pinned_name(name, repo_type)
    if (key, revision) not in {row[:2] for row in found.index.pins()}:
        raise NotFoundError(f"{name} is not pinned.", next="`mdl cache pin` lists the pins.")
    if not dry_run:
        found.index.remove_pin(key, revision)
    say_notes(found)
    if as_json:
        echo_json({"pins": found.pins})
    else:
        click.echo(f"{repo_id} {'would be' if dry_run else 'is'} no longer pinned.")


def _pinned_name(name: str, repo_type: str | None) -> tuple[str, str, str]:
    """(repo_key, revision or '', repo_id)."""
    text, _, revision = name.partition("@")
    kind, repo_id = split_name(text, repo_type)
    folder_name(repo_id, kind or "model")
    return repo_key(kind or "model", repo_id), revision, repo_id


@click.group("trash")
def trash() -> None:
    """List, restore or empty the trash."""


@trash.command("ls")
@cache_dir_option
@json_option
def trash_list(cache_dir: Path | None, as_json: bool) -> None:
    """List what is in the trash, oldest first."""
    from mdl.cachemgr.remove import strays, trash_entries

    found = opened(cache_dir)
    present, unknown = trash_entries(found), strays(found)
    say_notes(found)
    if as_json:
        entries = [entry.to_json() for entry in present]
        echo_json({"entries": entries, "unknown": unknown})
        return
    rows = [
        (str(entry.id), entry.kind, human_size(entry.bytes), human_ago(entry.at), entry.summary)
        for entry in present
    ]
    header = ("NUMBER", "ACTION", "SIZE", "WHEN", "WHAT")
    click.echo(table(header, rows, right=(2,)) if rows else "The trash is empty.")
    for path in unknown:
        click.echo(f"unknown, goes with `mdl cache trash empty`: {printable(path)}")


@trash.command("restore")
@click.argument("number", type=int)
@cache_dir_option
@dry_option
@never_asks
@json_option
def trash_restore(number: int, cache_dir: Path | None, dry_run: bool, as_json: bool) -> None:
    """Put back what one action moved into the trash."""
    from mdl.cachemgr.remove import restore

    found = opened(cache_dir)
    action = restore(found, number, dry_run=dry_run)
    say_notes(found)
    _say_undone(action, as_json=as_json, dry_run=dry_run)


@trash.command("empty")
@click.argument("numbers", type=int, nargs=-1)
@click.option("--older-than", type=DURATION, help="Only what has been there for so long.")
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
    from mdl.cachemgr.remove import choose, empty

    found = opened(cache_dir)
    chosen = choose(found, list(numbers), older_than)
    size = sum(entry.bytes for entry in chosen)
    say_notes(found)
    if not dry_run:
        agree(f"Erase {human_size(size)} for good?", yes=yes)
        size = empty(found, numbers, older_than)
    if as_json:
        ids = [entry.id for entry in chosen]
        echo_json({"dry_run": dry_run, "erased": ids, "freed": size})
    else:
        click.echo(f"{'Would free' if dry_run else 'Freed'} {human_size(size)}.")


@click.command("undo")
@cache_dir_option
@dry_option
@never_asks
@json_option
def undo(cache_dir: Path | None, dry_run: bool, as_json: bool) -> None:
    """Revert the last action: what was removed comes back, what was joined is parted."""
    from mdl.cachemgr.remove import undo as undo_last

    found = opened(cache_dir)
    action = undo_last(found, dry_run=dry_run)
    say_notes(found)
    _say_undone(action, as_json=as_json, dry_run=dry_run)


def _say_undone(action: Any, *, as_json: bool, dry_run: bool = False) -> None:
    if as_json:
        echo_json(
            {"dry_run": dry_run, "action": action.id, "kind": action.kind,
             "summary": action.summary}
        )  # fmt: skip
    else:
        done = "Would take back" if dry_run else "Took back"
        click.echo(f"{done} {action.kind} ({printable(action.summary)}).")
