"""The operations that make every casing find the same copy, as pure functions.

`shared` moves no folder: equal blobs become one inode, and each casing gets what it lacks.
`hub` and `lower` fold all casings into one folder; the others become links to it.

Operations are ordered so that nothing ever points to what does not exist yet: blobs, listings,
pointers, markers that have become wrong, refs; then the folders swap places with links.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mdl.cachemgr.journal import Op, payload_path
from mdl.cachemgr.scan import Blob, Folder

# ext4 allows 65,000 names per file; stay well below that.
_MOST_LINKS = 60_000


class Extras(NamedTuple):
    """What `scan_folder` does not read of a folder.

    Attributes:
        trees: names in `trees/`.
        markers: `<commit>/<path>` below `.no_exist/`.
        ref_times: ref → when it was written.
    """

    trees: frozenset[str]
    markers: frozenset[str]
    ref_times: Mapping[str, float]


@dataclass
class Steps:
    """Operations under construction, by kind, and the bytes they save."""

    staging: str
    blobs: list[Op] = field(default_factory=list)
    trees: list[Op] = field(default_factory=list)
    pointers: list[Op] = field(default_factory=list)
    markers: list[Op] = field(default_factory=list)
    refs: list[Op] = field(default_factory=list)
    swaps: list[Op] = field(default_factory=list)
    saved: int = 0
    temporaries: int = 0

    def temporary(self) -> str:
        """A name in the staging folder for an operation's unfinished file."""
        self.temporaries += 1
        return os.path.join(self.staging, f"tmp-{self.temporaries}")

    @property
    def in_order(self) -> list[Op]:
        return [*self.blobs, *self.trees, *self.pointers, *self.markers, *self.refs, *self.swaps]


class Pair(NamedTuple):
    """Two names of what should be the same bytes; to be compared before they share a copy."""

    keep: str
    path: str
    size: int


def duplicate_blobs(root: str, folders: Sequence[Folder]) -> list[Pair]:
    """Blobs of the same name and size in several folders that are not one inode yet.

    The first folder's is kept. Names are the Hub's hashes; callers must compare the content.
    """
    keepers: dict[tuple[str, int], tuple[str, Blob]] = {}
    pairs = []
    for folder in folders:
        for blob in folder.blobs.values():
            if blob.inode[0] == "shared" or blob.name.startswith("snapshots/") or not blob.size:
                continue
            path = os.path.join(root, folder.name, "blobs", blob.name)
            keep = keepers.get((blob.name, blob.size))
            if keep is None or keep[1].links >= _MOST_LINKS:
                keepers[blob.name, blob.size] = (path, blob)
            elif keep[1].inode != blob.inode and keep[1].inode[0] == blob.inode[0]:
                pairs.append(Pair(keep[0], path, blob.size))
    return pairs


def share(steps: Steps, pairs: Sequence[Pair], links: Mapping[str, int]) -> None:
    """Make each pair one inode. `links`: path → how many names its inode has now."""
    for pair in pairs:
        steps.blobs.append(
            {"op": "share", "keep": pair.keep, "path": pair.path, "temp": steps.temporary()}
        )
        # Replacing an inode that has another name elsewhere frees nothing.
        steps.saved += pair.size if links.get(pair.path, 1) == 1 else 0


class MergedFolder:
    """A folder that is given what the other casings have; it may not exist yet."""

    def __init__(self, root: str, name: str, folder: Folder | None, extras: Extras) -> None:
        self.root = root
        self.name = name
        self.path = os.path.join(root, name)
        self.blobs = set(folder.blobs) if folder else set()
        self.blobs |= {part.name for part in folder.incomplete} if folder else set()
        self.pointers = {
            snapshot.commit: {pointer.path: pointer.blob for pointer in snapshot.pointers}
            for snapshot in (folder.snapshots if folder else ())
        }
        self.refs = dict(folder.refs) if folder else {}
        self.ref_times = dict(extras.ref_times)
        self.trees = set(extras.trees)
        self.markers = set(extras.markers)

    def add_from(self, steps: Steps, source: Folder, extras: Extras, *, everything: bool) -> None:
        """Add the operations that give this folder what the source has.

        Args:
            everything: orphans, unfinished downloads and markers too, for a source that is removed.
        """
        self._blobs(steps, source, everything=everything)
        self._trees(steps, source, extras)
        self._pointers(steps, source)
        self._markers(steps, source, extras, everything=everything)
        self._refs(steps, source, extras)

    def _blobs(self, steps: Steps, source: Folder, *, everything: bool) -> None:
        named = {p.blob for snapshot in source.snapshots for p in snapshot.pointers}
        base = os.path.join(self.root, source.name)
        for blob in source.blobs.values():
            name = blob.name
            if name in self.blobs or name.startswith("snapshots/"):
                continue
            if not everything and name not in named:
                continue
            self.blobs.add(name)
            target = os.path.join(self.path, "blobs", name)
            if blob.inode[0] == "shared":
                payload = payload_path(self.root, blob.inode[1])
                text = os.path.relpath(payload, os.path.dirname(target))
                line = f"{self.name}/blobs/{name}"
                steps.blobs.append({"op": "manifest", "payload": payload, "line": line})
                steps.blobs.append(
                    {"op": "symlink", "text": text, "path": target, "folder": self.path}
                )
            else:
                steps.blobs.append({**self._link(base, f"blobs/{name}"), "folder": self.path})
        for part in source.incomplete if everything else ():
            if part.name not in self.blobs:
                self.blobs.add(part.name)
                steps.blobs.append({**self._link(base, f"blobs/{part.name}"), "folder": self.path})

    def _link(self, base: str, relative: str) -> Op:
        return {
            "op": "link",
            "from": os.path.join(base, relative),
            "to": os.path.join(self.path, relative),
        }

    def _trees(self, steps: Steps, source: Folder, extras: Extras) -> None:
        for name in sorted(extras.trees - self.trees):
            self.trees.add(name)
            steps.trees.append(self._link(os.path.join(self.root, source.name), f"trees/{name}"))

    def _pointers(self, steps: Steps, source: Folder) -> None:
        for snapshot in source.snapshots:
            mine = self.pointers.setdefault(snapshot.commit, {})
            for pointer in snapshot.pointers:
                if pointer.blob is None or mine.get(pointer.path) is not None:
                    continue
                relative = f"snapshots/{snapshot.commit}/{pointer.path}"
                target = os.path.join(self.path, relative)
                if pointer.path in mine:
                    # It points nowhere here, but to a blob there.
                    steps.pointers.append(self._away(steps, relative))
                mine[pointer.path] = pointer.blob
                if pointer.blob.startswith("snapshots/"):
                    steps.pointers.append(
                        self._link(os.path.join(self.root, source.name), relative)
                    )
                    continue
                up = "../" * (2 + pointer.path.count("/"))
                text = f"{up}blobs/{pointer.blob}"
                steps.pointers.append({"op": "symlink", "text": text, "path": target})

    def _away(self, steps: Steps, relative: str) -> Op:
        return {
            "op": "move",
            "from": os.path.join(self.path, relative),
            "to": os.path.join(steps.staging, self.name, relative),
        }

    def _markers(self, steps: Steps, source: Folder, extras: Extras, *, everything: bool) -> None:
        """Remove the markers of files that now exist: look-ups check markers before files."""
        for marker in sorted(self.markers):
            commit, _, path = marker.partition("/")
            if path in self.pointers.get(commit, {}):
                self.markers.discard(marker)
                steps.markers.append(self._away(steps, f".no_exist/{marker}"))
        for marker in sorted(extras.markers - self.markers) if everything else ():
            commit, _, path = marker.partition("/")
            if path not in self.pointers.get(commit, {}):
                self.markers.add(marker)
                base = os.path.join(self.root, source.name)
                steps.markers.append(self._link(base, f".no_exist/{marker}"))

    def _refs(self, steps: Steps, source: Folder, extras: Extras) -> None:
        """Where two folders disagree about a ref, the one written last wins."""
        for ref, commit in sorted(source.refs.items()):
            mine, when = self.refs.get(ref), extras.ref_times.get(ref, 0.0)
            if mine == commit or (mine is not None and self.ref_times.get(ref, 0.0) >= when):
                continue
            if commit not in self.pointers:
                continue
            self.refs[ref] = commit
            self.ref_times[ref] = when
            path = os.path.join(self.path, "refs", ref)
            steps.refs = [op for op in steps.refs if op["path"] != path]
            steps.refs.append(
                {"op": "write", "path": path, "text": commit, "old": self._old(ref),
                 "temp": steps.temporary()}
            )  # fmt: skip

    def _old(self, ref: str) -> str | None:
        """A ref's present content, as it is on disk."""
        try:
            with open(os.path.join(self.path, "refs", ref), encoding="ascii", newline="") as file:
                return file.read()
        except OSError:
            return None


def swap_for_link(steps: Steps, root: str, name: str, target: str) -> None:
    """Replace a folder with a link to `target` atomically; the folder moves to the staging."""
    waiting = os.path.join(steps.staging, name)
    steps.swaps.append({"op": "symlink", "text": target, "path": waiting})
    steps.swaps.append({"op": "exchange", "path": os.path.join(root, name), "other": waiting})
