"""Removing from a cache: prune policies, `rm`, and `undo`; a plan first, then the operations."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.remove.execute import Outcome, heal_aliases
    from mdl.cachemgr.remove.operations import payload_ops
    from mdl.cachemgr.remove.policy import INCOMPLETE_AGE, Item, Policy, PrunePlan
    from mdl.cachemgr.remove.prune import apply_prune, plan_prune
    from mdl.cachemgr.remove.rm import (
        apply_remove,
        choose_trash,
        empty_trash,
        plan_remove,
        restore,
        strays,
        trash_entries,
        undo,
    )

__getattr__ = door(
    __name__,
    {
        "execute": "Outcome heal_aliases",
        "operations": "payload_ops",
        "policy": "INCOMPLETE_AGE Item Policy PrunePlan",
        "prune": "apply_prune plan_prune",
        "rm": "apply_remove choose_trash empty_trash plan_remove restore strays trash_entries undo",
    },
)
