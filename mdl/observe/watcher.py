"""What is opened below cache roots and in model folders, whoever opens it, by inotify.

inotify names a file by the folder that really holds it, so opening a snapshot's link is an event
of the `blobs` folder it leads to. It knows no process, and what it could not watch or lost is
said in `gaps`.
"""

import contextlib
import errno
import os
import time
from collections import deque
from collections.abc import Collection, Iterable

from mdl.cachemgr import parse_folder
from mdl.observe import linux
from mdl.observe.cache_paths import real_repository
from mdl.observe.linux import Inotify

# From this many files of one folder on, only its large ones are watched, each by itself: an event
# costs as much as a third of opening a small file.
MOST_SMALL = 2000
_LARGE = 1 << 20
_MOST_LARGE = 512
_DEPTH = 8
_MOST_FOLDERS = 4096

_COMES = linux.CREATE | linux.MOVED_TO
_MASKS = {
    "ancestor": _COMES,  # of a root that is not there yet
    "root": _COMES,
    "repo": _COMES,
    "snapshots": _COMES,
    "store": _COMES,
    "blobs": _COMES | linux.OPEN,
    "snapshot": _COMES | linux.OPEN,
    "folder": _COMES | linux.OPEN | linux.CLOSE_WRITE,
    "file": linux.OPEN,
}
# What the folders in these are.
_INSIDE = {"store": "blobs", "snapshots": "snapshot"}
_TEMPORARY = (".incomplete", ".lock", ".refs", ".tmp", ".shared")


class OpenWatcher:
    """Watches roots and folders. Paths are those of the real folders, links resolved.

    Attributes:
        arrived: blobs that came into a watched cache → when (seconds since 1970).
        requested: repository folders that were made in a watched cache → when.
        gaps: what was not seen, in words.
        blind: whether weights may be among that.
    """

    def __init__(self) -> None:
        self._inotify = Inotify()
        self.fd = self._inotify.fd
        self.arrived: dict[str, float] = {}
        self.requested: dict[str, float] = {}
        self.gaps: list[str] = []
        self.blind = False
        self._watched: dict[int, tuple[str, str, int]] = {}  # watch → kind, path, depth
        self._roots: list[str] = []
        self._later: deque[tuple[str, str, int]] = deque()
        self._seen: dict[int, set[bytes]] = {}
        self._large: dict[int, set[bytes]] = {}  # of folders whose small files go unseen
        self._made: dict[str, int] = {}  # files of model folders made meanwhile → opens - writes
        self._full = self._has_many = False
        self._is_new = False  # what is added now was made a moment ago

    def close(self) -> None:
        self._inotify.close()

    # -- what is watched --------------------------------------------------------------------

    def add_root(self, root: str) -> None:
        """Watch a cache root, also one that does not exist yet."""
        if root not in self._roots:
            self._roots.append(root)
            self._open_root(root)

    def add_folder(self, folder: str, *, deep: bool = False) -> None:
        """Watch a folder of a model, or with `deep` a folder of such folders."""
        self._add("folder", os.path.realpath(folder), 0 if deep else _DEPTH)

    def work(self, seconds: float | None = None) -> bool:
        """Go on to watch what is less urgent; whether all of it is done."""
        until = None if seconds is None else time.monotonic() + seconds
        while self._later:
            self._add(*self._later.popleft())
            if until is not None and time.monotonic() > until:
                break
        return not self._later

    def _open_root(self, root: str) -> None:
        existing = root
        while not os.path.isdir(existing):
            parent = os.path.dirname(existing)
            if parent == existing:
                return
            existing = parent
        if existing == root:
            self._add("root", os.path.realpath(root), 0)
            return
        self._add("ancestor", existing, 0)
        if os.path.isdir(os.path.join(existing, os.path.relpath(root, existing).split("/")[0])):
            self._open_root(root)  # it came in between

    def _add(self, kind: str, path: str, depth: int) -> None:
        if self._full or depth > _DEPTH:
            return
        mask = linux.MORE | _MASKS[kind] | (0 if kind == "file" else linux.ONLY_FOLDERS)
        try:
            watch = self._inotify.add(path, mask)
        except OSError as error:
            self._refused(path, error)
            return
        if watch in self._watched and self._watched[watch][0] not in ("ancestor", "folder"):
            return
        self._watched[watch] = (kind, path, depth)
        if kind in ("ancestor", "file") or (kind == "blobs" and not self._is_new):
            return
        # Added first, listed then: what comes in between is found by both.
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                self._found(kind, path, depth, entry.name, is_link=entry.is_symlink())

    def _found(self, kind: str, path: str, depth: int, name: str, *, is_link: bool) -> None:
        """Watch an entry of a folder, if it is one whose files matter."""
        below = os.path.join(path, name)
        if kind == "blobs":
            self._arrived(below)
        elif kind == "root" and parse_folder(name):
            self._add("repo", real_repository(below) if is_link else below, 0)
        elif kind == "root" and name == "blobs":
            self._add("store", below, 0)
        elif kind == "repo" and name in ("blobs", "snapshots"):
            if name == "blobs":
                self._add("blobs", below, 0)
            else:  # seldom more than links, and links say nothing when they are followed
                self._later.append(("snapshots", below, 0))
        elif kind in ("store", "snapshots") and not is_link:
            self._add(_INSIDE[kind], below, depth + 1)
        elif (
            kind in ("snapshot", "folder")
            and not is_link
            and not name.startswith(".")
            and os.path.isdir(below)
        ):
            if kind == "snapshot" or len(self._watched) < _MOST_FOLDERS:
                self._add(kind, below, depth + 1)
            elif not self._has_many:
                self._has_many = True
                self._missed(f"More than {_MOST_FOLDERS:,} folders: {below} was not watched.")

    def _refused(self, path: str, error: OSError) -> None:
        if error.errno == errno.ENOSPC:
            self._full = True
            self._missed(
                "The system's watches are used up (fs.inotify.max_user_watches):"
                f" nothing after {path} was watched."
            )
        elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
            self._missed(f"{path} could not be watched: {error.strerror}.")

    def _missed(self, text: str) -> None:
        self.gaps.append(text)
        self.blind = True

    # -- what happened ----------------------------------------------------------------------

    def read(self, but: Collection[str] = ()) -> list[str]:
        """The files opened since the last call, each at its first time only.

        Args:
            but: files that this process itself has read; opened later on, they count again.
        """
        opened: list[str] = []
        for watch, mask, name in self._inotify.read():
            if mask & linux.OVERFLOW:
                self._missed(
                    f"The system dropped events at {time.strftime('%H:%M:%S')}:"
                    " files opened then may be missing."
                )
            elif mask & linux.IGNORED:
                self._gone(watch)
            elif watch in self._watched:
                if mask & linux.OPEN and not mask & linux.IS_FOLDER:
                    self._opened(watch, name, opened, but)
                elif mask & _COMES:
                    self._came(watch, mask, name)
                elif mask & linux.CLOSE_WRITE:
                    self._count(watch, name, -1)
        return opened

    def read_back(self) -> list[str]:
        """Files of model folders that were written meanwhile and read as well."""
        return [path for path, opens in self._made.items() if opens > 0]

    def _opened(
        self, watch: int, name: bytes, opened: list[str], but: Collection[str] = ()
    ) -> None:
        seen = self._seen.setdefault(watch, set())
        if name in seen:
            self._count(watch, name, 1)
            return
        if watch in self._large and name not in self._large[watch]:
            return  # it was in the queue when the folder's events were turned off
        kind, folder, _ = self._watched[watch]
        text = os.fsdecode(name)
        if _is_temporary(text) or (but and os.path.join(folder, text) in but):
            return
        if self._count(watch, name, 1):
            return
        path = os.path.join(folder, text) if name else folder
        seen.add(name)
        opened.append(path)
        if len(seen) == MOST_SMALL and kind != "file":
            self._watch_large_ones(watch)

    def _count(self, watch: int, name: bytes, change: int) -> bool:
        """Keep count of a file that was made meanwhile; whether it is one."""
        if not self._made:
            return False
        path = os.path.join(self._watched[watch][1], os.fsdecode(name))
        if path not in self._made:
            return False
        self._made[path] += change
        return True

    def _came(self, watch: int, mask: int, name: bytes) -> None:
        kind, folder, depth = self._watched[watch]
        text = os.fsdecode(name)
        path = os.path.join(folder, text)
        if kind == "ancestor":
            self._is_new = True
            for root in self._roots:
                if root == path or root.startswith(path + "/"):
                    self._open_root(root)
            self._is_new = False
        elif kind == "blobs":
            self._arrived(path)
        elif kind == "folder" and not mask & linux.IS_FOLDER:
            self._made.setdefault(path, 0)
        else:
            if kind == "root" and parse_folder(text):
                self.requested.setdefault(path, time.time())
            self._is_new = True
            self._found(kind, folder, depth, text, is_link=os.path.islink(path))
            self._is_new = False

    def _arrived(self, blob: str) -> None:
        if not _is_temporary(os.path.basename(blob)):
            self.arrived.setdefault(blob, time.time())

    def _gone(self, watch: int) -> None:
        kind, path, _ = self._watched.pop(watch, ("", "", 0))
        self._seen.pop(watch, None)
        self._large.pop(watch, None)
        if kind == "root":  # it may be made anew
            for root in self._roots:
                if os.path.realpath(root) == path:
                    self._open_root(root)

    def _watch_large_ones(self, watch: int) -> None:
        """Let the small files of a folder with very many go unseen."""
        kind, folder, depth = self._watched[watch]
        self.gaps.append(
            f"More than {MOST_SMALL:,} files of {folder} were opened:"
            " of the others only the large ones are named."
        )
        # First the large files' own watches: one opened in between is then seen by both.
        large = large_files(folder, self._seen[watch])
        self._large[watch] = {os.fsencode(os.path.basename(path)) for path in large}
        for path in large:
            self._add("file", path, depth)
        # The same folder with another mask keeps its watch.
        with contextlib.suppress(OSError):
            self._inotify.add(folder, _MASKS[kind] & ~linux.OPEN)


def _is_temporary(name: str) -> bool:
    """Whether a file of a cache is one of a download, and not a model's."""
    return name.endswith(_TEMPORARY) or name.startswith("tmp_")


def large_files(folder: str, but: Iterable[bytes]) -> list[str]:
    """The largest files of a folder, at most 512 of a mebibyte or more."""
    skipped = {os.fsdecode(name) for name in but}
    sizes: list[tuple[int, str]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                size = entry.stat().st_size
                if size >= _LARGE and entry.name not in skipped:
                    sizes.append((size, entry.path))
    return [path for _, path in sorted(sizes, reverse=True)[:_MOST_LARGE]]
