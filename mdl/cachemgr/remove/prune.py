"""Prune: plan from the index, then carry the plan out."""

import os
import shutil
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mdl.cachemgr.index import Summary, physical, read_again
from mdl.cachemgr.journal import busy_folders, list_entries, list_open_files, open_revisions
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
    """Plan from the index, and check for running downloads and open files.

    The index knows neither downloads nor the latest access times, and checking takes system calls
    for every file. So only the folders that would lose something are checked, until that no longer
    changes the plan. Access times only grow: what a plan keeps was used no earlier than the index
    says.
    """
    root = os.fspath(cache.root)
    survey = cache.survey(breakdowns=True)
    folders = {s.name: (s, b) for s, b in zip(survey.summaries, survey.breakdowns, strict=True)}
    records = cache.records()
    in_trash = sum(entry.bytes for entry in list_entries(cache.index.actions()))
    free = shutil.disk_usage(root).free if os.path.isdir(root) else 0
    disk = Disk(
        physical(survey.summaries, survey.store), free + in_trash, survey.store, time.time()
    )
    open_now = _open_revisions(root, survey.summaries)
    downloads: dict[str, str] = {}
    checked: set[str] = set()
    while True:
        in_use = InUse(downloads, open_now)
        plan = decide_prune(take_inventory(folders.values(), records, in_use, disk), policy)
        touched = {name for remove in plan.remove for name in remove.item.folders} - checked
        checked |= touched
        busy = busy_folders(root, sorted(touched))
        now = read_again(root, sorted(touched & folders.keys())) if policy.by_last_use else {}
        if not busy and all(folders[name] == found for name, found in now.items()):
            return plan
        downloads |= busy
        folders |= now


def _open_revisions(root: str, summaries: Iterable[Summary]) -> dict[tuple[str, str], int]:
    """(folder, commit) → a process that has one of its files open."""
    opened = list_open_files(root)
    places = {path.split("/")[0] for path in opened}
    payloads = {os.path.basename(path) for path in opened if path.startswith("blobs/")}
    marked = store_is_marked(root)
    return {
        (summary.name, commit): pid
        for summary in summaries
        if summary.name in places or payloads.intersection(xet for xet, _ in summary.shared)
        for folder in [scan_folder(root, summary.name, marked=marked)]
        for commit, pid in open_revisions(folder, opened).items()
    }


def apply_prune(cache: "Cache", planned: PrunePlan) -> Outcome:
    """Carry a plan out, into the trash; what has changed since it was made is left alone.

    Raises:
        BusyError: another mdl process is changing this root.
        DiskError: the trash cannot be created; nothing was changed.
    """
    items = [remove.item for remove in planned.remove]
    removals = removals_of(items)
    payloads = frozenset(name for item in items if item.kind == "payload" for name in item.files)
    expected = {(item.key, item.commit): item for item in items if item.commit}

    def objection(folder: Folder, removal: Removal) -> str:
        key = repo_key(folder.repo_type, folder.repo_id)
        if folder.keep_out:
            return folder.keep_out
        records = cache.records()
        if reason := protection(key, "", (), records):
            return reason
        for commit in removal.commits:
            refs = folder.refs_of(commit)
            if not set(refs) <= set(expected[key, commit].refs):
                return "a ref was added to it since the plan was made"
            reason = protection(key, commit, refs, records)
            if reason:
                return reason
        return ""

    with cache.exclusive() as index:
        outcome = carry_out(os.fspath(cache.root), index, "prune", removals, objection, payloads)
        expire(cache)
    return outcome


def removals_of(items: list[Item]) -> dict[str, Removal]:
    """What to remove, by folder."""
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
                names[folder].update(item.files)
    return {
        folder: Removal(frozenset(commits[folder]), names=frozenset(names[folder]))
        for folder in commits
    }
