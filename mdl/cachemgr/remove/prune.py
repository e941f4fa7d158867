"""Prune, from the disk to the disk: look, decide, carry out."""

import os
import shutil
import time
from typing import TYPE_CHECKING

from mdl.cachemgr.index import physical
from mdl.cachemgr.journal import busy_folders, entries, list_open_files
from mdl.cachemgr.layout import repo_key
from mdl.cachemgr.remove.execute import Outcome, carry_out
from mdl.cachemgr.remove.inventory import Disk, InUse, protection, take_inventory
from mdl.cachemgr.remove.operations import Removal
from mdl.cachemgr.remove.policy import Item, Policy, PrunePlan, decide_prune
from mdl.cachemgr.remove.undo import expire
from mdl.cachemgr.scan import Folder, scan_folder, store_is_marked

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache


def plan_prune(cache: "Cache", policy: Policy) -> PrunePlan:
    """Decide from the disk as it is now, downloads and open files included.

    Looking for running downloads costs an open per lock file, so only folders that would lose
    something are looked at, until a plan touches no busy one.
    """
    root = os.fspath(cache.root)
    found = cache.survey()
    marked = store_is_marked(root)
    folders = [scan_folder(root, summary.name, marked=marked) for summary in found.summaries]
    known = cache.knowledge()
    in_trash = sum(entry.bytes for entry in entries(cache.index.actions()))
    free = shutil.disk_usage(root).free if os.path.isdir(root) else 0
    disk = Disk(physical(found.summaries, found.store), free + in_trash, found.store, time.time())
    downloads: dict[str, str] = {}
    opened = list_open_files(root)
    checked: set[str] = set()
    while True:
        in_use = InUse(downloads, opened)
        planned = decide_prune(take_inventory(folders, known, in_use, disk), policy)
        touched = {name for remove in planned.remove for name in remove.item.folders}
        busy = busy_folders(root, sorted(touched - checked))
        checked |= touched
        if not busy:
            return planned
        downloads.update(busy)


def apply_prune(cache: "Cache", planned: PrunePlan) -> Outcome:
    """Carry a plan out: what changed since it was made is left alone."""
    items = [remove.item for remove in planned.remove]
    removals = removals_of(items)
    stray = frozenset(
        payload for item in items if item.kind == "payload" for _, payload in item.blobs
    )
    expected = {(item.key, item.commit): item for item in items if item.commit}

    def objection(folder: Folder, removal: Removal) -> str:
        key = repo_key(folder.repo_type, folder.repo_id)
        if not folder.readable:
            return "its folder cannot be read whole"
        known = cache.knowledge()
        if reason := protection(key, "", (), known):
            return reason
        for commit in removal.commits:
            refs = folder.refs_of(commit)
            if not set(refs) <= set(expected[key, commit].refs):
                return "a ref was added to it since the plan was made"
            reason = protection(key, commit, refs, known)
            if reason:
                return reason
        return ""

    with cache.exclusive() as index:
        outcome = carry_out(os.fspath(cache.root), index, "prune", removals, objection, stray)
        expire(cache)
    return outcome


def removals_of(items: list[Item]) -> dict[str, Removal]:
    """What goes, by folder."""
    commits: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    for item in items:
        if item.kind == "payload":
            continue
        for folder in item.folders:
            commits.setdefault(folder, set())
            names.setdefault(folder, set())
            if item.commit is not None:
                commits[folder].add(item.commit)
            else:
                names[folder].update(name for where, name in item.blobs if where == folder)
    return {
        folder: Removal(frozenset(commits[folder]), names=frozenset(names[folder]))
        for folder in commits
    }
