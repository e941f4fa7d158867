"""`mdl cache`: see the Hugging Face cache whole, and shrink it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mdl.cachemgr.cache import Cache, open_cache
from mdl.cli.output import confirm, echo_json, human_ago, human_size, printable, table
from mdl.errors import MdlError
from mdl.settings import load_settings, parse_duration, parse_size


class _Parsed(click.ParamType[Any]):
    """An option read by one of the settings' parsers."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except MdlError as error:
            self.fail(error.message, param, ctx)


SIZE = _Parsed("size", parse_size)
DURATION = _Parsed("duration", parse_duration)

_root = click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="Another cache root than HF_HUB_CACHE."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_dry = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.group()
def cache() -> None:
    """See and shrink the Hugging Face cache."""


def opened(cache_dir: Path | None) -> Cache:
    return open_cache(load_settings(), cache_dir.absolute() if cache_dir else None)


def say_notes(found: Cache) -> None:
    """What recovery did goes to standard error: it is news, not the answer."""
    for note in found.notes:
        click.echo(note, err=True)
    if not found.index.persistent:
        click.echo(
            f"note: {found.index.path} cannot be written, so nothing is remembered.", err=True
        )


@cache.command("ls")
@_root
@_json
def list_command(cache_dir: Path | None, as_json: bool) -> None:
    """List every repository once, whatever its casings on disk."""
    found = opened(cache_dir)
    repos, totals = found.listing()
    say_notes(found)
    if as_json:
        echo_json(
            {
                "root": str(found.root),
                "repos": [repo.to_json() for repo in repos],
                "totals": totals.to_json(),
            }
        )
        return
    rows = [
        (
            f"{repo.repo_type}/{repo.repo_id}",
            human_size(repo.size_on_disk),
            human_ago(repo.last_used),
            str(len(repo.revisions)),
            repo.state,
            " ".join(repo.refs),
            _remarks(repo.spellings, repo.pinned, len(repo.problems)),
        )
        for repo in repos
    ]
    header = ("REPOSITORY", "SIZE", "LAST USED", "REVISIONS", "STATE", "REFS", "")
    click.echo(table(header, rows, right=(1, 3)))
    click.echo(
        f"\n{totals.repos} repositories, {totals.revisions} revisions,"
        f" {human_size(totals.size_on_disk)} on disk in {found.root}"
    )


def _remarks(spellings: tuple[str, ...], pinned: bool, problems: int) -> str:
    remarks = ["pinned"] if pinned else []
    if len(spellings) > 1:
        remarks.append(f"{len(spellings)} spellings")
    if problems:
        remarks.append(f"{problems} problem{'s' if problems > 1 else ''}")
    return ", ".join(remarks)


@cache.command("prune")
@click.option("--max-size", type=SIZE, help="Shrink the cache below this, such as 200GB.")
@click.option("--keep-free", type=SIZE, help="Leave this much of the disk free.")
@click.option("--older-than", type=DURATION, help="Remove revisions not changed for so long.")
@click.option("--unused-for", type=DURATION, help="Remove revisions not used for so long.")
@click.option("--detached", is_flag=True, help="Remove revisions that no ref points to.")
@click.option("--incomplete", is_flag=True, help="Remove what broken-off downloads left.")
@click.option("--keep-last", type=click.IntRange(min=1), help="Keep so many revisions each.")
@_root
@_dry
@_yes
@_json
def prune(cache_dir: Path | None, dry_run: bool, yes: bool, as_json: bool, **rules: Any) -> None:
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
    if as_json:
        echo_json({"dry_run": False, **plan.to_json(), **outcome_json(outcome)})
    else:
        show_outcome(outcome)


def policy_from(found: Cache, rules: dict[str, Any]) -> Any:
    """The command line's policy; else the configuration's; else detached and incomplete."""
    from mdl.cachemgr.policy import Policy

    watermark = found.settings.cache.low_watermark
    policy = Policy(**rules, low_watermark=watermark)
    if policy.is_empty:
        policy = Policy.from_settings(found.settings.cache)
    if policy.is_empty:
        policy = Policy(detached=True, incomplete=True, low_watermark=watermark)
    return policy


def agree(question: str, *, yes: bool) -> None:
    """Ask; a no ends the command with nothing changed."""
    if not confirm(question, yes=yes):
        raise click.Abort


def outcome_json(outcome: Any) -> dict[str, Any]:
    return {
        "action": outcome.action_id,
        "freed": outcome.freed,
        "trash": outcome.trash,
        "skipped": dict(outcome.skipped),
    }


def show_outcome(outcome: Any) -> None:
    for folder, reason in outcome.skipped.items():
        click.echo(f"left alone: {printable(folder)}: {reason}")
    if outcome.action_id is None:
        click.echo("Nothing was removed.")
        return
    click.echo(
        f"Moved into the trash: {human_size(outcome.freed)}. The disk has them back after"
        " `mdl cache trash empty`; `mdl cache undo` restores them."
    )
    if outcome.note:
        click.echo(f"note: {outcome.note}")


def _show_plan(plan: Any) -> None:
    rows = [("keep", _named(keep.item), "-", keep.reason) for keep in plan.keep] + [
        ("remove", _named(remove.item), human_size(remove.bytes), remove.reason)
        for remove in plan.remove
    ]
    if rows:
        click.echo(table(("", "WHAT", "FREES", "WHY"), rows, right=(2,)))
    click.echo(f"\n{len(plan.remove)} to remove, which frees {human_size(plan.freed)}.")
    if plan.short:
        click.echo(f"That is still {human_size(plan.short)} short: the rest is protected.")


def _named(item: Any) -> str:
    what = item.commit[:12] if item.commit else item.kind
    refs = f" ({', '.join(item.refs)})" if item.refs else ""
    return f"{item.repo_type}/{item.repo_id} {what}{refs}"
