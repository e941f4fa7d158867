"""Plans and actions on the cache over HTTP: what was looked at is what is done."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mdl.cachemgr.policy import Policy, PrunePlan
from mdl.errors import ConfigError, UsageError, VerificationError
from mdl.settings import CacheSettings, parse_duration, parse_size

if TYPE_CHECKING:
    from mdl.cachemgr import Cache
    from mdl.service.schemas import PruneAction, PruneFields


def policy_of(fields: "PruneFields", configured: CacheSettings) -> Policy:
    """The policy a request describes; one that says nothing means the configured one.

    Raises:
        UsageError: a size or a duration that is none, or no rule at all.
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
            low_watermark=configured.low_watermark,
        )
    except ConfigError as error:
        raise UsageError(error.message, next=error.next) from error
    if asked.is_empty:
        asked = Policy.from_settings(configured)
    if asked.is_empty:
        raise UsageError(
            "A plan needs a rule.",
            why="none is given, and the configuration has none",
            next="Give max_size, keep_free, older_than, unused_for, detached or incomplete.",
        )
    return asked


def plan_json(plan: PrunePlan) -> dict[str, Any]:
    return {**plan.to_json(), "digest": digest(plan)}


def digest(plan: PrunePlan) -> str:
    """What a plan would remove, as 16 hex digits: equal plans do the same."""
    gone = sorted(json.dumps(remove.item.to_json(), sort_keys=True) for remove in plan.remove)
    return hashlib.sha256("\n".join(gone).encode()).hexdigest()[:16]


def prune(cache: "Cache", policy: Policy, action: "PruneAction") -> dict[str, Any]:
    """Plan again, and carry it out if it is still the plan that was looked at.

    Raises:
        VerificationError: the cache changed, and another plan came out.
        BusyError: another mdl process is changing this root.
    """
    plan = cache.plan_prune(policy)
    if digest(plan) != action.digest:
        raise VerificationError(
            "The plan has changed since it was made.",
            why="something was downloaded, used, pinned or removed in between",
            next="Ask for the plan again, look at it, and send its digest.",
        )
    done = cache.apply(plan)
    return {"action_id": done.action_id, "freed": done.freed, "skipped": dict(done.skipped)}
