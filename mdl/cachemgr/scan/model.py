"""What one pass over the disk found, before anything is made of it."""

from dataclasses import dataclass, field
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
