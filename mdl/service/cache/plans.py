"""Plans and actions on the cache over HTTP: exactly the plan that was looked at is carried out.

Each kind of change is a function from the cache and a request to a `Planned`: the JSON that the
command prints, and what carries it out. Nothing is changed until then.
"""

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.cachemgr.remove import Policy
from mdl.errors import ConfigError, NotFoundError, UsageError, VerificationError
from mdl.service import cache_schemas as schemas
from mdl.settings import CacheSettings, parse_duration, parse_size

if TYPE_CHECKING:
    from mdl.cachemgr import Cache
    from mdl.cachemgr.remove import Outcome
    from mdl.store import JournalAction


class Planned(NamedTuple):
    """A plan.

    Attributes:
        shown: what the command prints with `--dry-run --json`.
        same: the part that must be the same when it is carried out.
        run: carries it out; returns what the command's JSON has besides the plan.
    """

    shown: dict[str, Any]
    same: Any
    run: Callable[[], dict[str, Any]]


def plan_json(cache: "Cache", wanted: schemas.Plan) -> dict[str, Any]:
    """What a change would do, and its digest; equal plans for equal requests have equal digests.

    Raises:
        MdlError: it cannot be done; the command's own error.
    """
    planned = _MAKERS[wanted.kind](cache, wanted)
    return {"dry_run": True, **planned.shown, "digest": _digest(wanted, planned)}


def act(cache: "Cache", wanted: schemas.Plan, digest: str) -> dict[str, Any]:
    """Plan again, and carry it out if it is still the plan that was looked at.

    Raises:
        VerificationError: the cache changed, and so did the plan.
        BusyError: another mdl process is changing this root.
    """
    planned = _MAKERS[wanted.kind](cache, wanted)
    if _digest(wanted, planned) != digest:
        raise VerificationError(
            "The plan has changed since it was made.",
            why="something was downloaded, used, pinned or removed in between",
            next="Ask for the plan again, look at it, and send its digest.",
        )
    return {"dry_run": False, **planned.shown, **planned.run()}


def _digest(wanted: schemas.Plan, planned: Planned) -> str:
    text = json.dumps([wanted.model_dump(), planned.same], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def policy_of(fields: schemas.Prune, configured: CacheSettings) -> Policy:
    """The policy that a request describes, with the defaults of `mdl cache prune`.

    Raises:
        UsageError: a size or duration is malformed.
    """
    try:
        asked = Policy(
            max_size=None if fields.max_size is None else parse_size(fields.max_size),
            keep_free=None if fields.keep_free is None else parse_size(fields.keep_free),
            older_than=None if fields.older_than is None else parse_duration(fields.older_than),
            unused_for=None if fields.unused_for is None else parse_duration(fields.unused_for),
            detached=fields.detached,
            incomplete=fields.incomplete,
            keep_last=fields.keep_last,
        )
    except ConfigError as error:
        raise UsageError(error.message, next=error.next) from error
    return asked.or_default(configured)


def _prune(cache: "Cache", wanted: schemas.Prune) -> Planned:
    from mdl.cachemgr.remove import apply_prune, plan_prune

    plan = plan_prune(cache, policy_of(wanted, cache.settings.cache))
    same = sorted(json.dumps(remove.item.to_json(), sort_keys=True) for remove in plan.remove)
    return Planned(
        plan.to_json(), same, lambda: _removed(cache, apply_prune(cache, plan), erase=wanted.now)
    )


def _remove(cache: "Cache", wanted: schemas.Remove) -> Planned:
    from mdl.cachemgr.remove import apply_remove, plan_remove

    targets = [wanted.target] if isinstance(wanted.target, str) else wanted.target
    plan = plan_remove(cache, *targets, repo_type=wanted.repo_type, casings=wanted.all_casings)
    return Planned(
        plan.to_json(),
        plan.to_json(),
        lambda: _removed(cache, apply_remove(cache, plan), erase=wanted.now),
    )


def _removed(cache: "Cache", outcome: "Outcome", *, erase: bool) -> dict[str, Any]:
    if erase:
        from mdl.cachemgr.remove import erase_removed

        erase_removed(cache, outcome.action_id)
    return outcome.to_json()


def _normalize(cache: "Cache", wanted: schemas.Normalize) -> Planned:
    from mdl.cachemgr.normalize import (
        NormalizeRequest,
        apply_normalize,
        hub_spelling,
        plan_normalize,
    )

    request = NormalizeRequest.of(
        cache,
        wanted.name,
        wanted.repo_type,
        to=wanted.to,
        across=wanted.across,
        store=wanted.store,
    )
    planned = plan_normalize(cache, request, hub_spelling(cache))
    shown = planned.to_json()
    return Planned(shown, shown, lambda: apply_normalize(cache, planned).to_json())


def _pin(cache: "Cache", wanted: schemas.Pin) -> Planned:
    from mdl.cachemgr import parse_pin, pin_matches, waiting_note

    pinned = parse_pin(wanted.name, wanted.repo_type)
    notes = [] if pin_matches(pinned, cache.list()) else [waiting_note(wanted.name)]

    def run() -> dict[str, Any]:
        cache.add_pin(*pinned)
        return {"pins": cache.pins, "notes": notes}

    return Planned({"pins": cache.pins, "notes": notes}, pinned, run)


def _unpin(cache: "Cache", wanted: schemas.Unpin) -> Planned:
    from mdl.cachemgr import parse_pin

    pinned = parse_pin(wanted.name, wanted.repo_type)
    if not cache.is_pinned(pinned.key, pinned.revision):
        raise NotFoundError(f"{wanted.name} is not pinned.", next="GET /v1/cache/pins lists them.")

    def run() -> dict[str, Any]:
        cache.remove_pin(pinned.key, pinned.revision)
        return {"pins": cache.pins}

    return Planned({"pins": cache.pins}, pinned, run)


def _undo(cache: "Cache", wanted: schemas.Undo) -> Planned:
    from mdl.cachemgr.remove import undo_last

    last = undo_last(cache, dry_run=True)
    return Planned(_undone(last), _undone(last), lambda: _undone(undo_last(cache, only=last.id)))


def _restore(cache: "Cache", wanted: schemas.Restore) -> Planned:
    from mdl.cachemgr.remove import restore

    shown = _undone(restore(cache, wanted.id, dry_run=True))
    return Planned(shown, shown, lambda: _undone(restore(cache, wanted.id)))


def undo_plan(action: "JournalAction") -> dict[str, Any]:
    """The plan of undoing the last change, made without waiting for who changes the cache now."""
    shown = _undone(action)
    wanted = schemas.Undo(kind="undo")
    return {**shown, "digest": _digest(wanted, Planned(shown, shown, dict))}


def _undone(action: "JournalAction") -> dict[str, Any]:
    return {"action": action.id, "kind": action.kind, "summary": action.summary}


def _empty(cache: "Cache", wanted: schemas.Empty) -> Planned:
    from mdl.cachemgr.remove import choose_trash, empty_trash

    try:
        age = None if wanted.older_than is None else parse_duration(wanted.older_than)
    except ConfigError as error:
        raise UsageError(error.message, next=error.next) from error
    chosen = choose_trash(cache, wanted.ids, age)
    ids = [entry.id for entry in chosen]
    # By number: what has grown old enough since then is not in this plan.
    shown = {"erased": ids, "freed": sum(entry.bytes for entry in chosen)}
    return Planned(shown, shown, lambda: {"freed": empty_trash(cache, ids)})


_MAKERS: dict[str, Callable[["Cache", Any], Planned]] = {
    "prune": _prune,
    "rm": _remove,
    "normalize": _normalize,
    "pin": _pin,
    "unpin": _unpin,
    "undo": _undo,
    "restore": _restore,
    "empty": _empty,
}
