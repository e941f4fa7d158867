"""Removing revisions, files and repositories: facts → operations (pure), then the act.

Everything is renamed into the trash, in an order in which a reader never meets a reference
without its snapshot nor a pointer without its blob for longer than the rename of the next line.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mdl.cachemgr.journal import MANIFEST, Op, payload_path, references, still_linked
from mdl.cachemgr.scan import Folder

# After the locks are let go a download that had checked for a blob before they were taken makes
# its pointer; it needs no longer than this for the two system calls in between.
SETTLE_SECONDS = 0.1


@dataclass(frozen=True)
class Removal:
    """What goes from one folder.

    Attributes:
        commits: revisions, whole.
        files: (commit, path) of single files.
        names: entries of `blobs`: orphans and unfinished downloads.
        whole: the folder goes as it is, whatever else stands in it.
    """

    commits: frozenset[str] = frozenset()
    files: frozenset[tuple[str, str]] = frozenset()
    names: frozenset[str] = frozenset()
    whole: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.commits or self.files or self.names or self.whole)


@dataclass(frozen=True)
class Doomed:
    """One folder's operations and what they take.

    `blobs` are the names that leave `blobs/`; `payloads` the shared payloads that lose a link.
    """

    folder: str
    whole: bool
    ops: tuple[Op, ...]
    blobs: frozenset[str]
    payloads: frozenset[str] = field(default_factory=frozenset)


def doom(root: str, trash: str, folder: Folder, removal: Removal, aliases: Iterable[str]) -> Doomed:
    """The operations that take a removal out of a folder as it was just read.

    A blob goes when no pointer that stays names it. A folder goes whole when nothing stays.
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
    return Doomed(folder.name, whole, tuple(ops), frozenset(blobs), payloads)


def _parts(
    root: str, trash: str, folder: Folder, removal: Removal, blobs: Sequence[str]
) -> list[Op]:
    """References first, then pointers, then what nothing points to any more."""
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
    """Take payloads out of the shared store, with their manifests."""
    ops = []
    for payload in sorted(payloads):
        path = payload_path(root, payload)
        for leaf in (path, f"{path}{MANIFEST}"):
            op = _move(root, trash, os.path.relpath(leaf, root))
            ops.append({**op, "payload": path})
    return ops


def unlinked_payloads(
    root: str, doomed: Sequence[Doomed], folders: Mapping[str, Folder]
) -> set[str]:
    """The payloads that no blob outside a removal leads to, by links and by manifest."""
    losing = {payload for one in doomed for payload in one.payloads}
    going = {(one.folder, name) for one in doomed for name in one.blobs}
    for folder in folders.values():
        for blob in folder.blobs.values():
            if blob.inode[0] == "shared" and (folder.name, blob.name) not in going:
                losing.discard(blob.inode[1])
    return {payload for payload in losing if _only_these(root, payload, going)}


def _only_these(root: str, payload: str, going: set[tuple[str, str]]) -> bool:
    """Do a manifest's live lines all belong to the removal? No manifest means no."""
    path = payload_path(root, payload)
    lines = references(path)
    if lines is None:
        return False
    leaving = {f"{folder}/blobs/{name}" for folder, name in going}
    return all(line in leaving or not os.path.lexists(os.path.join(root, line)) for line in lines)


def stray_payloads(root: str, payloads: Iterable[str]) -> set[str]:
    """Those payloads that their manifest says nobody leads to."""
    return {payload for payload in payloads if not still_linked(root, payload_path(root, payload))}


def look_again(root: str, doomed: Sequence[Doomed]) -> list[Op]:
    """Which moves to take back, because a download made use of what was just taken.

    Call it after the locks were released; it waits for downloads that were in between.
    """
    time.sleep(SETTLE_SECONDS)
    back: list[Op] = []
    for one in doomed:
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
    """The blob names that pointers lead to in vain."""
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
