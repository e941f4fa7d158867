"""What one pass over a folder found, as values."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Blob(NamedTuple):
    """One entry of a `blobs` folder, or a regular file in a snapshot itself.

    `inode` identifies the bytes, whatever their names: `(st_dev, st_ino)`, or
    `("shared", <xet hash>)` for a link into the cache-wide store.
    """

    name: str
    size: int
    inode: tuple[Any, Any]
    links: int
    mtime: float
    atime: float


class Pointer(NamedTuple):
    """One file of a snapshot; `blob` is its key in `Folder.blobs`, `None` if it points nowhere."""

    path: str
    blob: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One `snapshots/<commit>` folder as found.

    `state` is `complete` (every file of the tree listing is there, or there is no listing),
    `partial` (some are missing) or `broken` (a file points nowhere or has the wrong size).
    """

    commit: str
    pointers: tuple[Pointer, ...]
    state: str
    mtime: float
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The temporary file of an unfinished download."""

    name: str
    size: int
    mtime: float


@dataclass(frozen=True, slots=True)
class Folder:
    """One repository folder as found on disk, with its problems as sentences."""

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
