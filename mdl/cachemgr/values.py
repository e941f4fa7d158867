"""What the cache holds, as frozen values.

Sizes are bytes of content (`st_size`), each inode counted once, as huggingface_hub counts them.
Times are seconds since the epoch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Blob(NamedTuple):
    """One entry of a `blobs` folder, or a regular file that stands in a snapshot itself.

    `inode` is what two names of the same bytes share: `(st_dev, st_ino)`, or
    `("shared", <xet hash>)` for a link into the cache-wide store.
    """

    name: str
    size: int
    inode: tuple[Any, Any]
    links: int
    mtime: float
    atime: float


class Pointer(NamedTuple):
    """One file of a snapshot; `blob` is its key in `Folder.blobs`, `None` if it leads nowhere."""

    path: str
    blob: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One `snapshots/<commit>` folder as found.

    `state` is `complete` (every file the tree listing names is there, or no listing is known),
    `partial` (some are not) or `broken` (a file leads nowhere or has the wrong size).
    """

    commit: str
    pointers: tuple[Pointer, ...]
    state: str
    mtime: float
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A download's temporary file."""

    name: str
    size: int
    mtime: float


@dataclass(frozen=True, slots=True)
class Folder:
    """One repository folder as found on disk, every problem in words."""

    name: str
    repo_type: str
    repo_id: str
    alias_of: str | None = None
    blobs: dict[str, Blob] = field(default_factory=dict)
    snapshots: tuple[Snapshot, ...] = ()
    refs: dict[str, str] = field(default_factory=dict)
    incomplete: tuple[Incomplete, ...] = ()
    no_exist: int = 0
    problems: tuple[str, ...] = ()
    probes: tuple[tuple[str, int], ...] = ()
    readable: bool = True

    def refs_of(self, commit: str) -> tuple[str, ...]:
        return tuple(sorted(ref for ref, target in self.refs.items() if target == commit))


@dataclass(frozen=True)
class CachedRevision:
    """One commit of a repository, all spellings together."""

    commit: str
    refs: tuple[str, ...]
    size: int
    files: int
    state: str
    last_modified: float
    spelling: str
    last_used: float | None = None
    pinned: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "commit": self.commit,
            "refs": list(self.refs),
            "size": self.size,
            "files": self.files,
            "state": self.state,
            "last_modified": self.last_modified,
            "last_used": self.last_used,
            "pinned": self.pinned,
            "spelling": self.spelling,
        }


@dataclass(frozen=True)
class CachedRepo:
    """One repository, whatever its casings on disk.

    Attributes:
        size_on_disk: what it occupies, every inode and shared payload once.
        logical_size: what it would occupy if every file of every revision were a copy.
        reclaimable: what the disk regains when the repository goes: less than `size_on_disk`
            where other repositories, or names outside the cache, share its bytes.
        last_used_source: `journal` (mdl's own record), `atime` (a hint only) or `None`.
    """

    repo_id: str
    repo_type: str
    spellings: tuple[str, ...]
    aliases: tuple[str, ...]
    size_on_disk: int
    logical_size: int
    reclaimable: int
    last_used: float | None
    last_used_source: str | None
    last_modified: float | None
    pinned: bool
    revisions: tuple[CachedRevision, ...]
    incomplete_files: int
    incomplete_size: int
    problems: tuple[str, ...]

    @property
    def refs(self) -> tuple[str, ...]:
        return tuple(sorted({ref for revision in self.revisions for ref in revision.refs}))

    @property
    def state(self) -> str:
        """The worst of the revisions' states; `broken` too when the repository has a problem."""
        states = {revision.state for revision in self.revisions}
        if "broken" in states or self.problems:
            return "broken"
        return "partial" if "partial" in states or not states else "complete"

    def to_json(self) -> dict[str, Any]:
        return {
            "repo_id": self.repo_id,
            "repo_type": self.repo_type,
            "spellings": list(self.spellings),
            "aliases": list(self.aliases),
            "size_on_disk": self.size_on_disk,
            "logical_size": self.logical_size,
            "reclaimable": self.reclaimable,
            "last_used": self.last_used,
            "last_used_source": self.last_used_source,
            "last_modified": self.last_modified,
            "pinned": self.pinned,
            "state": self.state,
            "revisions": [revision.to_json() for revision in self.revisions],
            "incomplete": {"files": self.incomplete_files, "size": self.incomplete_size},
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class Placement:
    """Where one repository is on this machine: the answer to "is it here?".

    `missing` names the files that the tree listing has and the snapshot lacks; without a listing
    it is empty and `state` rests on what is there.
    """

    repo_id: str
    repo_type: str
    spelling: str | None
    commit: str | None
    state: str
    path: Path | None
    bytes: int
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.state == "complete"

    def to_json(self) -> dict[str, Any]:
        return {
            "repo_id": self.repo_id,
            "repo_type": self.repo_type,
            "spelling": self.spelling,
            "commit": self.commit,
            "state": self.state,
            "complete": self.complete,
            "path": str(self.path) if self.path else None,
            "bytes": self.bytes,
            "missing": list(self.missing),
        }
