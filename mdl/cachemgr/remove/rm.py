"""`rm`, from the disk to the disk: find the target, refuse what is protected, carry it out."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.cachemgr.index import Summary, did_you_mean
from mdl.cachemgr.journal import OF_ONE_FOLDER, aliases_of, busy_folders, list_open_files
from mdl.cachemgr.layout import parse_folder, repo_key
from mdl.cachemgr.remove.execute import Outcome, carry_out
from mdl.cachemgr.remove.inventory import protection
from mdl.cachemgr.remove.operations import FolderRemoval, Removal, compose_removal
from mdl.cachemgr.remove.target import find_target, may_mean, parse_target
from mdl.cachemgr.remove.undo import expire
from mdl.cachemgr.scan import Folder, scan_folder, store_is_marked
from mdl.errors import BusyError, DiskError, NotFoundError, UsageError

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache


class RemovePlan(NamedTuple):
    """What one `rm` removes. `freed` is what emptying the trash will free, in bytes."""

    targets: tuple[str, ...]
    removals: dict[str, Removal]
    freed: int

    def to_json(self) -> dict[str, Any]:
        return {
            "targets": list(self.targets),
            "remove": [
                {
                    "folder": name,
                    "whole": removal.whole,
                    "commits": sorted(removal.commits),
                    "files": sorted(path for _, path in removal.files),
                }
                for name, removal in self.removals.items()
            ],
            "freed": self.freed,
        }


def plan_remove(
    cache: "Cache", *targets: str, repo_type: str | None = None, casings: bool = False
) -> RemovePlan:
    """What these targets mean in this cache, and what removing all of them frees.

    Raises:
        NotFoundError, UsageError: it means nothing, or more than one thing.
        UsageError: it is pinned or in a lock file.
        BusyError: a download or a process is using it.
    """
    root = os.fspath(cache.root)
    marked = store_is_marked(root)
    summaries = cache.survey().summaries
    folders = [
        scan_folder(root, summary.name, marked=marked)
        for summary in summaries
        # A shared payload is removed with the last link to it, in whatever folder that is.
        if summary.shared or any(may_mean(summary, target) for target in targets)
    ]
    real = [folder for folder in folders if folder.alias_of is None]
    by_name = {folder.name: folder for folder in real}
    removals: dict[str, Removal] = {}
    for target in targets:
        try:
            found = find_target(real, target, repo_type, casings=casings)
        except NotFoundError as error:
            _suggest(error, target, summaries)
            raise
        for name, removal in found.items():
            reason = _protected(cache, by_name[name], removal)
            if reason:
                hint = "First unpin it with `mdl cache unpin`, or delete the lock file."
                if by_name[name].linked and not removal.whole:
                    hint = "Remove the files where they are, or the link to them."
                raise UsageError(f"{target} is protected: {reason}.", next=hint)
            removals[name] = removals.get(name, Removal()) | removal
    _refuse_in_use(root, removals)
    aliases = aliases_of(root)
    removed = [
        compose_removal(root, "", by_name[name], removal, aliases.get(name, []))
        for name, removal in removals.items()
    ]
    return RemovePlan(targets, removals, freed_by(real, removed))


def _suggest(error: NotFoundError, target: str, summaries: Iterable[Summary]) -> None:
    """Add the names in this cache that resemble a repository that is not."""
    name = parse_target(target).repo_id
    known = [parsed[1] for summary in summaries if (parsed := parse_folder(summary.name))]
    if name.casefold() not in {each.casefold() for each in known}:
        error.next = did_you_mean(name, known, error.next)


def _protected(cache: "Cache", folder: Folder, removal: Removal) -> str:
    if folder.linked and not removal.whole:
        return f"{folder.keep_out}; remove the whole repository, which takes the link alone"
    known = cache.records()
    key = repo_key(folder.repo_type, folder.repo_id)
    commits = {"", *removal.commits, *(commit for commit, _ in removal.files)}
    reasons = (protection(key, commit, folder.refs_of(commit), known) for commit in commits)
    return next((reason for reason in reasons if reason), "")


def _refuse_in_use(root: str, removals: Mapping[str, Removal]) -> None:
    busy = busy_folders(root, removals)
    if busy:
        name, etag = next(iter(busy.items()))
        raise BusyError(
            f"A download into {name} is running ({etag[:12]}).", next="Try again when it is done."
        )
    for path, pid in list_open_files(root).items():
        name = path.split("/", 1)[0]
        if name in removals and removals[name].whole:
            raise BusyError(f"Process {pid} has {path} open.", next="Close it first.")


def freed_by(folders: Sequence[Folder], removed: Sequence[FolderRemoval]) -> int:
    """Bytes that a removal frees: the inodes that lose all their names."""
    going: Counter[Any] = Counter()
    names: Counter[Any] = Counter()
    sizes: dict[Any, int] = {}
    by_name = {folder.name: folder for folder in folders}
    for folder in folders:
        for blob in folder.blobs.values():
            if blob.inode[0] == "outside":
                continue
            names[blob.inode] = names[blob.inode] + 1 if blob.inode[0] == "shared" else blob.links
            sizes[blob.inode] = blob.size
    freed = 0
    for one in removed:
        folder = by_name[one.folder]
        for name in folder.blobs if one.whole else one.blobs:
            if name in folder.blobs and folder.blobs[name].inode in names:
                going[folder.blobs[name].inode] += 1
        freed += sum(part.size for part in folder.incomplete if one.whole or part.name in one.blobs)
    return freed + sum(sizes[inode] for inode, count in going.items() if count >= names[inode])


def apply_remove(cache: "Cache", plan: RemovePlan) -> Outcome:
    """Carry a removal out, into the trash.

    Raises:
        BusyError: a download began, or another mdl process is at work; nothing was changed.
        DiskError: it may not be removed, or removing it would free nothing.
    """

    def objection(folder: Folder, removal: Removal) -> str:
        return _protected(cache, folder, removal)

    with cache.exclusive() as index:
        outcome = carry_out(os.fspath(cache.root), index, "rm", plan.removals, objection)
        expire(cache)
    if outcome.action_id is None and outcome.skipped:
        reason = next(iter(outcome.skipped.values()))
        verb = "were" if len(plan.targets) > 1 else "was"
        message = f"{', '.join(plan.targets)} {verb} left alone: {reason}."
        if reason in OF_ONE_FOLDER.values():
            raise DiskError(message, next="Remove it where it comes from, or as its owner.")
        raise BusyError(message, next="Try again when it is done.")
    return outcome
