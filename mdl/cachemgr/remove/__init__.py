"""Removing from a cache: prune policies, `rm`, the trash and `undo`."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.remove.execute import Outcome
    from mdl.cachemgr.remove.operations import payload_ops
    from mdl.cachemgr.remove.policy import INCOMPLETE_AGE, Item, Policy, PrunePlan
    from mdl.cachemgr.remove.prune import apply_prune, plan_prune
    from mdl.cachemgr.remove.rm import RemovePlan, apply_remove, plan_remove
    from mdl.cachemgr.remove.undo import (
        choose_trash,
        empty_trash,
        erase_removed,
        last_change,
        removal_effect,
        restore,
        trash_entries,
        undo_last,
        unknown_in_trash,
    )

__getattr__ = door(
    __name__,
    {
        "execute": "Outcome",
        "operations": "payload_ops",
        "policy": "INCOMPLETE_AGE Item Policy PrunePlan",
        "prune": "apply_prune plan_prune",
        "rm": "RemovePlan apply_remove plan_remove",
        "undo": "choose_trash empty_trash erase_removed last_change removal_effect restore"
        " trash_entries undo_last unknown_in_trash",
    },
)
