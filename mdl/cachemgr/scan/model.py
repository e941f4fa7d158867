"""What one pass over a folder found, as values."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Blob(NamedTuple):
    """One entry of a `blobs` folder, or a regular file in a snapshot itself.

    `inode` identifies the bytes, whatever their names: `(st_dev, st_ino)`,
    `("shared", <xet hash>)` for a link into the cache-wide store, or `("outside", <path>)` for a
    file that a snapshot's link points to and that no cache owns.
    """

    name: str
    size: int
    inode: tuple[Any, Any]
    links: int
    mtime: float
    atime: float


def content_path(root: str, folder: str, blob: Blob) -> str:
    """The path of a blob's content, in a root and a repository folder of it."""
    kind, where = blob.inode
    if kind == "outside":
        return str(where)
    if kind == "shared":
        return f"{root}/blobs/{where[:2]}/{where}"
    place = "" if blob.name.startswith("snapshots/") else "blobs/"
    return f"{root}/{folder}/{place}{blob.name}"


class Pointer(NamedTuple):
    """One file of a snapshot; `blob` is its key in `Folder.blobs`, `None` if it points nowhere."""

    path: str
    blob: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One `snapshots/<commit>` folder as found.

    `state` is `complete` (nothing that is needed is missing), `partial` (something is, by the
    configuration, the index or the tree listing) or `broken` (a file points nowhere or has the
    wrong size).
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
    """One repository folder as found on disk, with its problems as sentences.

    Attributes:
        linked: where a link in a folder's place points: the repository's own, `blobs`,
            `snapshots` or a snapshot. It is read through; nothing behind it is ever changed.
    """

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
    linked: str = ""

    @property
    def keep_out(self) -> str:
        """Why nothing in it may be moved or removed, or `''`."""
        if not self.readable:
            return "its folder cannot be fully read"
        return f"a link in it leads to {self.linked}" if self.linked else ""

    def refs_of(self, commit: str) -> tuple[str, ...]:
        return tuple(sorted(ref for ref, target in self.refs.items() if target == commit))
