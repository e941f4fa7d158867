"""Carry a normalization out: lock, compare, journal, act, sweep.

A repository that is in use, or that may not be changed, is left alone and named; the others are
not affected. Each repository's part is journalled before it is performed; together they are one
action.
"""

import errno
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mdl.cachemgr.journal import (
    DownloadLocks,
    Op,
    drop_empty,
    erase,
    list_open_files,
    make_folder,
    make_place,
    perform_or_leave,
    remove_dangling_aliases,
    remove_folder,
    revert_all,
    trash_place,
    wait_until_quiet,
)
from mdl.cachemgr.layout import folder_name
from mdl.cachemgr.normalize.operations import MergedFolder, Steps
from mdl.cachemgr.normalize.plan import (
    FolderReader,
    across_pairs,
    compose,
    join,
    ordered,
    read_extras,
)
from mdl.cachemgr.normalize.types import CannotNormalize, Group, NormalizePlan, NormalizeRequest
from mdl.cachemgr.remove import INCOMPLETE_AGE
from mdl.cachemgr.scan import Folder, scan_folder
from mdl.errors import DiskError
from mdl.store import CacheIndex

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache

# Errors of file systems without hard or symbolic links.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


@dataclass(frozen=True)
class Normalized:
    """The result. `skipped`: repository → why it was left alone."""

    action_id: int | None
    saved: int
    done: tuple[str, ...]
    skipped: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "action": self.action_id,
            "saved": self.saved,
            "done": list(self.done),
            "skipped": dict(self.skipped),
        }


def apply_normalize(cache: "Cache", planned: NormalizePlan) -> Normalized:
    """Carry a plan out.

    Raises:
        BusyError: another mdl process is changing this root.
        DiskError: the disk is full, or does not permit it; what was done is reverted.
    """
    if not planned.work:
        skipped = {group.repo_id: group.skipped for group in planned.groups}
        return Normalized(None, 0, (), skipped)
    root = os.fspath(cache.root)
    with cache.exclusive() as index:
        remove_dangling_aliases(root)
        place = trash_place(cache.root)
        staging = make_place(place)
        _refuse_without_links(staging, root)
        run = _Run(root, index, staging, planned.request)
        summary = f"{len(planned.work)} repositories to {planned.request.to}"
        action_id = index.begin_action("normalize", summary, {"trash": staging}, [])
        try:
            run.groups(action_id, planned.work)
        except BaseException:
            revert_all(run.performed)
            index.set_action(action_id, "reverted")
            drop_empty(staging)
            raise
        index.set_action(
            action_id, "done" if run.performed else "reverted",
            f"{len(run.done)} repositories to {planned.request.to}: {', '.join(run.done[:3])}",
            freed=run.saved,
        )  # fmt: skip
        remove_folder(staging)  # unless undo needs something in it
        # Another name for a blob changes no stamp of the folder that had it already.
        index.put_folders((), {name for group in planned.work for name in group.folders})
    skipped = {group.repo_id: group.skipped for group in planned.groups if group.skipped}
    return Normalized(
        action_id if run.performed else None, run.saved, tuple(run.done), skipped | run.skipped
    )


def _refuse_without_links(staging: str, root: str) -> None:
    """Try both kinds of link, in the staging folder; exFAT and many network disks have neither.

    Raises:
        DiskError: this disk supports none, so nothing can be shared or folded on it.
    """
    made = [os.path.join(staging, name) for name in ("try", "try-hard", "try-soft")]
    try:
        with open(made[0], "xb"):
            os.link(made[0], made[1])
            os.symlink("try", made[2])
    except OSError as error:
        erase(staging)
        if error.errno not in _NO_LINKS:
            raise
        raise DiskError(
            f"The disk of {root} does not support links, so files on it cannot share a copy.",
            why=error.strerror or str(error),
            next="Listing, pruning, removing and verifying work. To share copies, move the cache"
            " to another disk (HF_HUB_CACHE).",
        ) from error
    for path in made:
        os.unlink(path)


class _Run:
    """One normalization in progress."""

    def __init__(
        self, root: str, index: CacheIndex, staging: str, request: NormalizeRequest
    ) -> None:
        self.root = root
        self.index = index
        self.staging = staging
        self.request = request
        self.reader = FolderReader(root)
        self.performed: list[Op] = []
        self.done: list[str] = []
        self.skipped: dict[str, str] = {}
        self.saved = 0
        self.repos_begun = 0

    def groups(self, action_id: int, work: Sequence[Group]) -> None:
        writing = wait_until_quiet(self.root, {name for group in work for name in group.folders})
        for group in work:
            begun = len(self.performed)
            locks = DownloadLocks(self.root)
            try:
                if writing.intersection(group.folders):
                    raise CannotNormalize("a download is writing to it")
                for name in group.folders:
                    etag = locks.take(name)
                    if etag is not None:
                        raise CannotNormalize(f"a download is running ({etag[:12]})")
                self._group(action_id, group)
                self.done.append(group.repo_id)
            except CannotNormalize as refused:
                revert_all(self.performed[begun:])
                del self.performed[begun:]
                self.skipped[group.repo_id] = str(refused)
            finally:
                locks.release()
                remove_folder(self._staging())

    def _staging(self) -> str:
        """The staging folder of the repository that is being worked on."""
        return os.path.join(self.staging, str(self.repos_begun))

    def _group(self, action_id: int, group: Group) -> None:
        self.repos_begun += 1
        steps = Steps(self._staging())
        names = [name for name in group.folders if os.path.lexists(os.path.join(self.root, name))]
        folders = self.reader.read(names)
        if not group.repo_type:
            pairs = across_pairs(self.root, ordered(folders), self.request)
            join(self.root, steps, pairs, folders, compare=True)
        else:
            if group.target is not None:
                self._refuse_in_use(folders)
            compose(self.root, steps, folders, self.request, group.target, compare=True)
        if not steps.in_order:
            return
        make_folder(steps.staging)
        self._perform(action_id, steps.in_order)
        if group.target is not None:
            self._sweep(action_id, steps, folders, folder_name(group.target, group.repo_type))
        self.saved += steps.saved

    def _refuse_in_use(self, folders: Sequence[Folder]) -> None:
        for folder in folders:
            if any(_is_recent(part.mtime) for part in folder.incomplete):
                raise CannotNormalize("an unfinished download in it is recent")
        names = {folder.name for folder in folders}
        for path, pid in list_open_files(self.root).items():
            if path.split("/", 1)[0] in names:
                raise CannotNormalize(f"process {pid} has {path} open")

    def _perform(self, action_id: int, ops: list[Op]) -> None:
        self.index.add_operations(action_id, ops)
        self.performed += ops
        reason = perform_or_leave(ops)
        if reason:
            raise CannotNormalize(reason)

    def _sweep(self, action_id: int, steps: Steps, folders: Sequence[Folder], name: str) -> None:
        """Move over what appeared in a folder after it was read and before it was swapped."""
        moved = [folder.name for folder in folders if folder.alias_of is None]
        for old in moved:
            if old == name:
                continue
            for _ in range(100):
                source = scan_folder(steps.staging, old, marked=False)
                source = replace(source, blobs=self._with_links(steps.staging, source))
                (there,) = self.reader.read([name])
                late = Steps(steps.staging, temporaries=10_000 + steps.temporaries)
                merged = MergedFolder(self.root, name, there, read_extras(self.root, there))
                merged.add_from(late, source, read_extras(steps.staging, source), everything=True)
                late_ops = [
                    _from_staging(op, self.root, steps.staging, old) for op in late.in_order
                ]
                if not late_ops:
                    break
                steps.temporaries = late.temporaries
                self._perform(action_id, late_ops)

    def _with_links(self, staging: str, source: Folder) -> dict[str, Any]:
        """Leave out links into the store: they were moved over before the swap."""
        return {name: blob for name, blob in source.blobs.items() if blob.inode[0] != "shared"}


def _from_staging(op: Op, root: str, staging: str, old: str) -> Op:
    """Let a late operation read from the staging folder, where the swapped folder is now."""
    if op["op"] != "link":
        return op
    relative = os.path.relpath(op["from"], os.path.join(root, old))
    return {**op, "from": os.path.join(staging, old, relative)}


def _is_recent(mtime: float) -> bool:
    return time.time() - mtime < INCOMPLETE_AGE
