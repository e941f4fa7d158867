"""Noticing that a cache root changed: a probe that is the truth, events that make it prompt.

The probe compares the change times of every repository's `blobs` and `snapshots` folders: two
system calls a repository, a few milliseconds a thousand. inotify events (through watchdog) only
wake it earlier: they are silently lost when a queue overflows, never come from a network file
system, and each watched folder costs a kernel object, so only the root and the repositories that
changed last are watched.
"""

import contextlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.cachemgr.layout import parse_folder
from mdl.cachemgr.scan import change_stamp

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver, ObservedWatch

log = logging.getLogger("mdl.daemon")

_PROBED = ("blobs", "snapshots")
# Each watch of watchdog's is an inotify instance, of which a user has 128.
_MOST_ACTIVE = 8
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"}
Stamps = tuple[int, ...]


class Mode(NamedTuple):
    """How changes are noticed: `watching`, or `probing` alone, and then why."""

    kind: str
    why: str = ""


class Probe:
    """The light probe of a whole root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._root_stamp: tuple[int, int] | None = None
        self._names: list[str] = []
        self._stamps: dict[str, Stamps] = {}

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode of the root, `None` while there is none."""
        try:
            status = os.stat(self.root)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @property
    def names(self) -> list[str]:
        """The repository folders there were at the last call."""
        return self._names

    def changed(self) -> set[str]:
        """Names of the repository folders that changed, came or went since the last call."""
        self._list()
        found: set[str] = set()
        stamps: dict[str, Stamps] = {}
        for name in self._names:
            stamps[name] = now = self._look(name)
            if self._stamps.get(name) != now:
                found.add(name)
        found.update(self._stamps.keys() - stamps.keys())
        self._stamps = stamps
        return found

    def _list(self) -> None:
        try:
            status = os.stat(self.root)
            stamp = (status.st_ino, change_stamp(status))
            if stamp != self._root_stamp:
                self._names = sorted(n for n in os.listdir(self.root) if parse_folder(n))
                self._root_stamp = stamp
        except OSError:
            self._names, self._root_stamp = [], None

    def _look(self, name: str) -> Stamps:
        found = []
        for part in _PROBED:
            try:
                found.append(change_stamp(os.lstat(f"{self.root}/{name}/{part}")))
            except OSError:
                found.append(0)
        return tuple(found)


class Watcher:
    """Calls `notice(folder name)` soon after something changed, as far as the system tells.

    `notice` runs in watchdog's threads and must only take a note.
    """

    def __init__(self, root: str, notice: Callable[[str], None]) -> None:
        self.root = root
        self.mode = Mode("probing", "not started")
        self._notice = notice
        self._observer: BaseObserver | None = None
        self._active: OrderedDict[str, ObservedWatch] = OrderedDict()

    def start(self) -> None:
        """Begin to watch the root; a reason not to is kept in `mode`."""
        why = cannot_watch(self.root)
        if why:
            self.mode = Mode("probing", why)
            return
        from watchdog.observers import Observer

        observer = Observer(timeout=1.0)
        try:
            self._schedule(observer, self.root, recursive=False)
            observer.start()
        except OSError as error:
            self.mode = Mode("probing", _no_watches(error))
            return
        self._observer = observer
        self.mode = Mode("watching")

    def stop(self) -> None:
        observer, self._observer = self._observer, None
        self._active.clear()
        if observer is not None:
            observer.stop()
            observer.join(timeout=1.0)

    def follow(self, names: Iterable[str]) -> None:
        """Watch these repositories too; those that changed longest ago are let go."""
        if self._observer is None:
            return
        for name in names:
            if name in self._active:
                self._active.move_to_end(name)
                continue
            path = os.path.join(self.root, name)
            if os.path.islink(path) or not os.path.isdir(path):
                continue
            while len(self._active) >= _MOST_ACTIVE:
                _, oldest = self._active.popitem(last=False)
                with contextlib.suppress(KeyError, OSError):
                    self._observer.unschedule(oldest)
            try:
                self._active[name] = self._schedule(self._observer, path, recursive=True)
            except OSError as error:
                self.mode = Mode("probing", _no_watches(error))
                log.warning("%s", self.mode.why)
                self.stop()
                return

    @property
    def active(self) -> int:
        return len(self._active)

    def _schedule(self, observer: "BaseObserver", path: str, *, recursive: bool) -> "ObservedWatch":
        from watchdog import events

        # Opening a folder is not among them: a read-only walk would flood the queue.
        wanted: list[Any] = [
            events.FileCreatedEvent, events.FileDeletedEvent, events.FileMovedEvent,
            events.FileClosedEvent, events.DirCreatedEvent, events.DirDeletedEvent,
            events.DirMovedEvent,
        ]  # fmt: skip
        handler: Any = _Handler(self.root, self._notice)  # watchdog only calls dispatch
        return observer.schedule(handler, path, recursive=recursive, event_filter=wanted)


class _Handler:
    """What watchdog calls: only the first part of the path below the root matters."""

    def __init__(self, root: str, notice: Callable[[str], None]) -> None:
        self._start = len(root.rstrip("/")) + 1
        self._notice = notice

    def dispatch(self, event: Any) -> None:
        self._notice(os.fsdecode(event.src_path)[self._start :].split("/", 1)[0])


class Notes:
    """Names noted by other threads, taken by one; `wake` is set while there are any."""

    def __init__(self) -> None:
        self.wake = threading.Event()
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        with self._lock:
            self._names.add(name)
        self.wake.set()

    def take(self) -> set[str]:
        with self._lock:
            names, self._names = self._names, set()
            self.wake.clear()
        return names


def cannot_watch(root: str) -> str:
    """Why events would not tell of every change, or `''`."""
    kind = file_system(root)
    if kind in _REMOTE or kind.startswith("fuse"):
        return f"the cache is on {kind}, where changes made elsewhere send no events"
    return "" if os.path.isdir(root) else "the cache root does not exist yet"


def file_system(path: str, mounts: str = "/proc/self/mounts") -> str:
    """The type of the file system a path is on, `''` where nobody says."""
    real = os.path.realpath(path)
    best = ("", "")
    try:
        with open(mounts, errors="surrogateescape") as lines:
            for line in lines:
                _, place, kind, *_ = line.split(" ")
                place = place.replace("\\040", " ")
                inside = real == place or real.startswith(place.rstrip("/") + "/")
                if inside and len(place) >= len(best[0]):
                    best = (place, kind)
    except (OSError, ValueError):
        return ""
    return best[1]


def _no_watches(error: OSError) -> str:
    return (
        f"no more folders can be watched ({error.strerror or error});"
        " fs.inotify.max_user_watches and max_user_instances set how many"
    )
