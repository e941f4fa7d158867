"""The operations that remove revisions, files and repositories.

Everything is renamed into the trash, in an order in which a ref is never left without its
snapshot, nor a pointer without its blob.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mdl.cachemgr.journal import MANIFEST, Op, payload_path, references, still_linked
from mdl.cachemgr.scan import Folder

# A download that checked for a blob before the locks were taken creates its pointer after they are
# released; the two system calls in between take no longer than this.
LATE_POINTER_SECONDS = 0.1


@dataclass(frozen=True)
class Removal:
    """What to remove from one folder.

    Attributes:
        commits: whole revisions.
        files: (commit, path) of single files.
        names: entries of `blobs`: orphans and unfinished downloads.
        whole: the folder with everything in it.
    """

    commits: frozenset[str] = frozenset()
    files: frozenset[tuple[str, str]] = frozenset()
    names: frozenset[str] = frozenset()
    whole: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.commits or self.files or self.names or self.whole)

    def __str__(self) -> str:
        if self.whole:
            return "the whole folder"
        parts = [(len(self.commits), "revision"), (len(self.files), "file")]
        return ", ".join(f"{n} {what}{'s' if n > 1 else ''}" for n, what in parts if n)

    def __or__(self, other: "Removal") -> "Removal":
        whole, commits = self.whole or other.whole, self.commits | other.commits
        # A file goes with its revision, and that with its folder.
        files = {file for file in self.files | other.files if file[0] not in commits and not whole}
        return Removal(commits, frozenset(files), self.names | other.names, whole)


@dataclass(frozen=True)
class FolderRemoval:
    """The operations for one folder, and what they remove.

    `blobs` are the names removed from `blobs/`; `payloads` the shared payloads that lose a link.
    """

    folder: str
    whole: bool
    ops: tuple[Op, ...]
    blobs: frozenset[str]
    payloads: frozenset[str] = field(default_factory=frozenset)


def compose_removal(
    root: str, trash: str, folder: Folder, removal: Removal, aliases: Iterable[str]
) -> FolderRemoval:
    """The operations that carry a removal out on a folder as it was just read.

    A blob is removed when no remaining pointer names it, the folder when nothing remains in it.
    """
    staying = {
        pointer.blob
        for snapshot in folder.snapshots
        if snapshot.commit not in removal.commits
        for pointer in snapshot.pointers
        if (snapshot.commit, pointer.path) not in removal.files
    }
    leaving = {
        pointer.blob
        for snapshot in folder.snapshots
        for pointer in snapshot.pointers
        if snapshot.commit in removal.commits or (snapshot.commit, pointer.path) in removal.files
    }
    present = set(folder.blobs) | {part.name for part in folder.incomplete}
    blobs = ({name for name in leaving if name} | (removal.names & present)) - staying
    payloads = frozenset(
        folder.blobs[name].inode[1]
        for name in blobs
        if name in folder.blobs and folder.blobs[name].inode[0] == "shared"
    )
    commits = {snapshot.commit for snapshot in folder.snapshots}
    emptied = commits <= removal.commits and present <= blobs and not removal.files
    whole = removal.whole or emptied
    if whole:
        ops = [_move(root, trash, alias) for alias in sorted(aliases)]
        ops.append(_move(root, trash, folder.name))
    else:
        ops = _parts(root, trash, folder, removal, sorted(blobs))
    return FolderRemoval(folder.name, whole, tuple(ops), frozenset(blobs), payloads)


def _parts(
    root: str, trash: str, folder: Folder, removal: Removal, blobs: Sequence[str]
) -> list[Op]:
    """Refs first, then pointers, then what nothing points to any more."""
    relative: list[str] = []
    commits = sorted(removal.commits)
    for commit in commits:
        relative += [f"refs/{ref}" for ref in folder.refs_of(commit)]
    relative += [f"snapshots/{commit}" for commit in commits]
    relative += [f"snapshots/{commit}/{path}" for commit, path in sorted(removal.files)]
    for commit in commits:
        relative += [f".no_exist/{commit}", f"trees/{commit}.json"]
    relative += [f"blobs/{name}" for name in blobs if not name.startswith("snapshots/")]
    return [
        _move(root, trash, f"{folder.name}/{path}")
        for path in relative
        if os.path.lexists(os.path.join(root, folder.name, path))
    ]


def _move(root: str, trash: str, relative: str) -> Op:
    return {
        "op": "move",
        "from": os.path.join(root, relative),
        "to": os.path.join(trash, relative),
    }


def payload_ops(root: str, trash: str, payloads: Iterable[str]) -> list[Op]:
    """Remove payloads from the shared store, with their manifests."""
    ops = []
    for payload in sorted(payloads):
        path = payload_path(root, payload)
        for leaf in (path, f"{path}{MANIFEST}"):
            op = _move(root, trash, os.path.relpath(leaf, root))
            ops.append({**op, "payload": path})
    return ops


def unlinked_payloads(
    root: str, removed: Sequence[FolderRemoval], folders: Mapping[str, Folder]
) -> set[str]:
    """The payloads that nothing outside a removal uses, by links and by manifest."""
    losing = {payload for one in removed for payload in one.payloads}
    going = {(one.folder, name) for one in removed for name in one.blobs}
    for folder in folders.values():
        for blob in folder.blobs.values():
            if blob.inode[0] == "shared" and (folder.name, blob.name) not in going:
                losing.discard(blob.inode[1])
    return {payload for payload in losing if _only_these(root, payload, going)}


def _only_these(root: str, payload: str, going: set[tuple[str, str]]) -> bool:
    """Do all live lines of a manifest belong to the removal? Without a manifest: no."""
    path = payload_path(root, payload)
    lines = references(path)
    if lines is None:
        return False
    leaving = {f"{folder}/blobs/{name}" for folder, name in going}
    return all(line in leaving or not os.path.lexists(os.path.join(root, line)) for line in lines)


def unreferenced_payloads(root: str, payloads: Iterable[str]) -> set[str]:
    """Those of these payloads that nothing links to, according to their manifests."""
    return {payload for payload in payloads if not still_linked(root, payload_path(root, payload))}


def look_again(root: str, removed: Sequence[FolderRemoval]) -> list[Op]:
    """The moves to revert, because a download has come to use what was just removed.

    Call it after releasing the locks; it waits for downloads that had checked before.
    """
    time.sleep(LATE_POINTER_SECONDS)
    back: list[Op] = []
    for one in removed:
        place = os.path.join(root, one.folder)
        if one.whole:
            if os.path.lexists(place):
                back += one.ops
            continue
        wanted = _dangling(os.path.join(place, "snapshots"))
        back += [
            op
            for op in one.ops
            if os.path.basename(os.path.dirname(op["from"])) == "blobs"
            and os.path.basename(op["from"]) in wanted
        ]
    return back


def _dangling(snapshots: str) -> set[str]:
    """The names of missing blobs that pointers name."""
    wanted: set[str] = set()
    for folder, _, files in os.walk(snapshots):
        for name in files:
            path = os.path.join(folder, name)
            try:
                target = os.readlink(path)
            except OSError:
                continue
            if not os.path.lexists(os.path.join(folder, target)):
                wanted.add(os.path.basename(target))
    return wanted


def summary_of(removals: Mapping[str, Removal]) -> str:
    """One line for the journal."""
    more = f" and {len(removals) - 3} further folders" if len(removals) > 3 else ""
    commits = sum(len(removal.commits) for removal in removals.values())
    files = sum(len(removal.files) + len(removal.names) for removal in removals.values())
    parts = [f"{commits} revision{'s' if commits != 1 else ''}"] if commits else []
    parts += [f"{files} file{'s' if files != 1 else ''}"] if files and not commits else []
    return f"{' and '.join(parts) or 'nothing'} of {', '.join(sorted(removals)[:3])}{more}"
