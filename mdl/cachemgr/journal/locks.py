"""Who else is working in the cache: downloads and other mdl processes.

huggingface_hub takes one `flock` per file it downloads, on `.locks/<folder>/<etag>.lock`, and
never removes those files; there is no lock per repository. mdl never creates, renames or removes
them: it holds the existing ones while it removes files, and looks again afterwards. llama.cpp
takes no locks: its downloads run for as long as a process has their file open.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mdl.cachemgr.journal.aliases import aliases_of
from mdl.cachemgr.journal.open_files import list_open_files
from mdl.cachemgr.layout import IN_PROGRESS
from mdl.errors import BusyError

fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows has no flock; huggingface_hub uses msvcrt there
    import fcntl

# A download holds no lock for a moment between two files of a snapshot: a repository that was
# written to this recently is watched until it has been quiet for as long.
QUIET_SECONDS = 3.0
# Where no /proc tells of open files (and for other machines), a download that takes no locks runs
# as long as its file was written to this recently.
LOCKLESS_SECONDS = 60.0


@contextlib.contextmanager
def root_mutex(root: str, fallback: Path, *, wait: float = 10.0) -> Iterator[None]:
    """Let only one mdl process at a time change a root, whichever user runs it.

    The lock is a `flock` on the root folder itself, so that it writes nothing, is seen by every
    user and ends with the process; where a folder cannot be locked, `fallback` is.

    Raises:
        BusyError: another process held it for `wait` seconds.
    """
    fd = _open_mutex(root, fallback)
    try:
        deadline = time.monotonic() + wait
        while not _try_lock(fd):
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"Another mdl process is changing the cache {root}.",
                    why=f"it has held the cache's lock for more than {wait:.0f} seconds.",
                    next="Try again when it is done.",
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(fd)


def _open_mutex(root: str, fallback: Path) -> int:
    try:
        fd = os.open(root, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            if _try_lock(fd) and fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_UN)
            return fd
        except OSError:
            os.close(fd)
    except OSError:
        pass
    fallback.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(fallback, os.O_RDWR | os.O_CREAT, 0o600)


def _try_lock(fd: int) -> bool:
    """Take an exclusive flock without waiting; false when another process holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def lock_waiting(fd: int, path: str, wait: float = 30.0) -> None:
    """Take an exclusive flock, waiting for at most `wait` seconds.

    Raises:
        BusyError: another process held it longer.
    """
    deadline = time.monotonic() + wait
    while not _try_lock(fd):
        if time.monotonic() >= deadline:
            raise BusyError(
                f"{path} has been locked by another process for more than {wait:.0f} seconds.",
                next="Try again when its download is done.",
            )
        time.sleep(0.02)


class DownloadLocks:
    """The download locks of several repository folders, held together.

    A download through a link to a folder takes the lock in the link's spelling: those count too.
    `take` does not block and is all or nothing per folder; `release` releases everything.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._aliases = aliases_of(root)
        self._held: dict[str, int] = {}
        _raise_file_limit()

    def take(self, folder: str) -> str | None:
        """Lock every lock file of a folder; the etag of a busy one, or `None` if none is busy."""
        if (running := lockless_download(self.root, folder)) is not None:
            return running
        taken: list[str] = []
        names = [folder, *self._aliases.get(folder, ())]
        for path in sorted(path for name in names for path in lock_files(self.root, name)):
            if path in self._held:
                continue
            fd = _open_lock(path)
            if fd is None:
                continue
            if fd < 0 or not _try_lock(fd):
                if fd >= 0:
                    os.close(fd)
                self._let_go(taken)
                return os.path.basename(path).removesuffix(".lock")
            self._held[path] = fd
            taken.append(path)
        return None

    def _let_go(self, paths: Iterable[str]) -> None:
        for path in paths:
            os.close(self._held.pop(path))

    def release(self) -> None:
        self._let_go(list(self._held))


def lockless_download(root: str, folder: str) -> str | None:
    """What llama.cpp is downloading into a folder right now, by its name; `None` for nothing."""
    blobs = f"{folder}/blobs"
    try:
        with os.scandir(os.path.join(root, blobs)) as entries:
            parts = {e.name: e.stat().st_mtime for e in entries if e.name.endswith(IN_PROGRESS)}
    except OSError:
        return None
    if not parts:
        return None
    opened = list_open_files(root)
    for name, written in parts.items():
        recent = abs(time.time() - written) < LOCKLESS_SECONDS
        if f"{blobs}/{name}" in opened or recent:
            return name.removesuffix(IN_PROGRESS)
    return None


def lock_files(root: str, folder: str) -> list[str]:
    """The lock files that downloads into this folder have used so far."""
    where = os.path.join(root, ".locks", folder)
    try:
        with os.scandir(where) as entries:
            return [
                entry.path
                for entry in entries
                if entry.name.endswith(".lock") and entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []


def _open_lock(path: str) -> int | None:
    """A descriptor to lock; -1 for a lock that is held by existing; `None` if it is gone."""
    try:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return None
    except OSError:
        try:
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return -1
    # Where flock does not work, the file itself is the lock, with the holder's name in it.
    if os.fstat(fd).st_size > 0:
        os.close(fd)
        return -1
    return fd


def _raise_file_limit() -> None:
    """A data set may have more lock files than the usual limit of 1,024 descriptors."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def busy_folders(root: str, folders: Iterable[str]) -> dict[str, str]:
    """Of these folders: folder → the etag being downloaded into it right now."""
    busy: dict[str, str] = {}
    folders = list(folders)
    if not folders:
        return busy
    locks = DownloadLocks(root)
    for folder in folders:
        etag = locks.take(folder)
        if etag is not None:
            busy[folder] = etag
        locks.release()
    return busy


def last_written(root: str, folder: str, aliases: Iterable[str] = ()) -> float:
    """When a download last created something in a folder; 0 if none ever took a lock."""
    newest = 0.0
    locks = [os.path.join(root, ".locks", name) for name in (folder, *aliases)]
    locks = [path for path in locks if os.path.isdir(path)]
    if not locks:
        return newest
    base = os.path.join(root, folder)
    places = [*locks, os.path.join(base, "blobs"), os.path.join(base, "refs")]
    snapshots = os.path.join(base, "snapshots")
    with contextlib.suppress(OSError):
        places += [os.path.join(snapshots, name) for name in os.listdir(snapshots)]
    for place in places:
        with contextlib.suppress(OSError):
            newest = max(newest, os.lstat(place).st_mtime)
    return newest


def wait_until_quiet(root: str, folders: Iterable[str]) -> set[str]:
    """Watch folders that were just written to; return those still being written to."""
    quiet = QUIET_SECONDS
    aliases = aliases_of(root)

    def look(folder: str) -> float:
        return last_written(root, folder, aliases.get(folder, ()))

    watched = {folder: look(folder) for folder in folders}
    now = time.time()
    watched = {folder: at for folder, at in watched.items() if -quiet < now - at < quiet}
    if not watched:
        return set()
    time.sleep(max(0.0, min(quiet, max(watched.values()) + quiet - now)))
    return {folder for folder, at in watched.items() if look(folder) != at}
