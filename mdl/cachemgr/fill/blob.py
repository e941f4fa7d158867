"""One blob on its way into the cache: written by one thread, read by any number meanwhile.

A partial file keeps its name from run to run, so a download that broke off goes on where it
stopped. The bytes are hashed before the file gets its name, and the last of them are withheld
from readers until the hash is right: whoever reads along ends up with the right file or with a
broken connection, never with a wrong file of the right length.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from mdl.cachemgr.layout import COMMIT_LENGTH, INCOMPLETE, SHA256_LENGTH, is_hash
from mdl.errors import BusyError, DiskError, MdlError, OfflineError, VerificationError
from mdl.hub_http import disk_filled_up

# Bytes that readers get only once the whole file is checked.
WITHHELD = 1 << 16
_NOTIFY_BYTES, _NOTIFY_SECONDS = 1 << 20, 0.01
_ATTEMPTS = 5  # without progress in between
_READ = 1 << 20


class Fetched(NamedTuple):
    """A response's body from byte `offset` on."""

    offset: int
    chunks: Iterable[bytes]


# Given the first byte wanted, the body from there or, where ranges do not work, from byte 0.
# Raises OSError or MdlError where the connection fails.
Fetch = Callable[[int], AbstractContextManager[Fetched]]


class Place(NamedTuple):
    """Where a file goes, where it is kept while it arrives, and the lock that its writer holds."""

    path: Path
    partial: Path
    lock: Path


def blob_place(root: Path, folder: str, etag: str) -> Place:
    """The place of a blob in a repository's folder of the cache."""
    blobs = root / folder / "blobs"
    partial = blobs / f"{etag}.mdl{INCOMPLETE}"
    return Place(blobs / etag, partial, root / ".locks" / folder / f"{etag}.lock")


class BlobFill:
    """A blob that is being downloaded, by this process or by another one on the same cache.

    Args:
        root: the cache root.
        folder: the repository's folder in it.
        etag: the blob's name; a sha256 or a git blob sha1 is checked.
        size: bytes, as the Hub says.
        fetch: opens the download.
        place: where it goes if not among the folder's blobs.
        title: what errors call it; the etag by default.
        arrived: called with the size of each piece that came.
        found: called with the bytes that are on disk already; negative where they are not after
            all. Also while nothing comes, with 0.
        followed: called with the bytes that another process adds meanwhile.

    What these raise ends the download, and is raised by `run`.

    Attributes:
        arrived: bytes on disk.
        resumed: those of them that an earlier run left.
        error: why it failed, once it has.
    """

    def __init__(
        self, root: Path, folder: str, etag: str, size: int, fetch: Fetch,
        *, place: Place | None = None, title: str | None = None,
        arrived: Callable[[int], object] = lambda count: None,
        found: Callable[[int], object] = lambda count: None,
        followed: Callable[[int], object] = lambda count: None,
    ) -> None:  # fmt: skip
        self.path, self.partial, lock = place or blob_place(root, folder, etag)
        self.size = size
        self.arrived = self.resumed = 0
        self.done = False
        self.error: MdlError | None = None
        self._title = title or etag
        self._count, self._count_found, self._count_followed = arrived, found, followed
        self._stopping = threading.Event()
        self._etag, self._fetch = etag, fetch
        self._checked = (0, 0)  # the file that got the name
        # Writable for a group, as huggingface_hub makes it.
        self._lock: BaseFileLock = FileLock(lock, mode=0o664)
        self._listeners: set[Callable[[], object]] = set()
        self._guard = threading.Lock()
        self._notified = (0, 0.0)

    @property
    def readable(self) -> int:
        """Bytes that a reader may take now."""
        return self.size if self.done else max(0, min(self.arrived, self.size - WITHHELD))

    def open(self) -> int:
        """A descriptor of the bytes that are here."""
        try:
            return os.open(self.partial, os.O_RDONLY)
        except FileNotFoundError:
            return os.open(self.path, os.O_RDONLY)

    def require_same(self, fd: int) -> None:
        """Make sure, once it is done, that what was read along is the file that was checked.

        Raises:
            VerificationError: it was another one, begun by a process whose bytes were wrong.
        """
        if self.done and _identity(os.fstat(fd)) != self._checked:
            raise self._wrong("it was begun anew meanwhile")

    def digest(self) -> Any:
        """A new hash of the kind that names this blob; `None` if its name is no hash."""
        if is_hash(self._etag, SHA256_LENGTH):
            return hashlib.sha256()
        if is_hash(self._etag, COMMIT_LENGTH):  # git's
            return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        return None

    def require_right(self, digest: Any) -> None:
        """Compare the hash of all bytes with the blob's name.

        Raises:
            VerificationError: they differ.
        """
        if digest is not None and digest.hexdigest() != self._etag:
            raise self._wrong("its content has another hash than its name")

    @contextlib.contextmanager
    def listening(self, listener: Callable[[], object]) -> Iterator[None]:
        """Have `listener` called, in the writing thread, whenever more can be read."""
        with self._guard:
            self._listeners.add(listener)
        try:
            yield
        finally:
            with self._guard:
                self._listeners.discard(listener)

    def stop(self) -> None:
        """End the download at its next bytes; what has arrived is kept."""
        self._stopping.set()

    def run(self, name: Callable[[], None]) -> None:
        """Download the blob, or follow whoever does. Blocks; what fails is in `error`.

        Args:
            name: called when the blob is there, before the last reader is given its end.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            Path(self._lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            if not self._follow():
                try:
                    self._download()
                finally:
                    if not self.arrived:
                        self.partial.unlink(missing_ok=True)
                    self._lock.release()
            name()
            self.done = True
        except MdlError as error:
            self.error = error
        except OSError as error:
            self.error = disk_filled_up(error) or DiskError(
                f"{self._title} cannot be kept in the cache.",
                why=error.strerror or str(error),
                next="`mdl cache prune --max-size SIZE` makes room.",
            )
        finally:
            self._notify(always=True)

    def _follow(self) -> bool:
        """Wait for the lock, reporting another process's progress; whether the blob is there."""
        while True:
            with contextlib.suppress(FileNotFoundError):
                self._checked = _identity(os.stat(self.path))
                self._found(self.size, self._count_followed)
                return True
            self._raise_if_stopped()
            try:
                self._lock.acquire(timeout=0.02)
            except Timeout:
                with contextlib.suppress(OSError):
                    size = self.partial.stat().st_size
                    self._found(size, self._count_followed if self.arrived else None)
                self._notify()
            except NotImplementedError:  # a file system without locks; as huggingface_hub does
                self._lock = SoftFileLock(self._lock.lock_file)
            else:
                if not self.path.exists():
                    return False
                self._lock.release()

    def _found(self, size: int, count: Callable[[int], object] | None = None) -> None:
        """So many bytes are here, which others wrote."""
        more, self.arrived = size - self.arrived, size
        (count or self._count_found)(more)

    def _raise_if_stopped(self) -> None:
        if self._stopping.is_set():
            raise BusyError("The download was stopped.", next="Try again.")

    def _download(self) -> None:
        digest = self.digest()
        with contextlib.suppress(FileNotFoundError):
            if self.partial.stat().st_size > self.size:
                self.partial.unlink()  # not shortened: who reads along would not notice
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        with open(os.open(self.partial, flags, 0o666), "rb+", buffering=0) as file:
            self._hash_start(file.fileno(), digest)
            attempts = 0
            while self.arrived < self.size:
                before = self.arrived
                try:
                    self._read_on(file.fileno(), digest)
                    problem = "the connection ended early"
                except OSError as error:
                    if error.errno is not None and not isinstance(error, ConnectionError):
                        raise  # the disk's, not the network's
                    problem = str(error) or type(error).__name__
                if self.arrived < self.size:
                    attempts = 1 if self.arrived > before else attempts + 1
                    if attempts == _ATTEMPTS:
                        raise OfflineError(
                            f"The download of {self._title} broke off.",
                            why=f"{problem}, after {self.arrived} of {self.size} bytes",
                            next="Try again: it goes on from there.",
                        )
                    self._stopping.wait(0.1 * 2**attempts)
                    self._raise_if_stopped()
                    self._count_found(0)
            self._checked = _identity(os.fstat(file.fileno()))
        try:
            self.require_right(digest)
        except VerificationError:
            self.partial.unlink(missing_ok=True)
            raise
        os.replace(self.partial, self.path)

    def _hash_start(self, fd: int, digest: Any) -> None:
        """Hash what an earlier run left; readers get it meanwhile."""
        self._found(0)
        while chunk := os.pread(fd, _READ, self.arrived):
            self._raise_if_stopped()
            if digest is not None:
                digest.update(chunk)
            self._found(self.arrived + len(chunk))
            self._notify()
        self.resumed = self.arrived

    def _read_on(self, fd: int, digest: Any) -> None:
        """Append what one response has, up to the expected size."""
        with self._fetch(self.arrived) as fetched:
            skip = self.arrived - fetched.offset
            for chunk in fetched.chunks:
                if skip > 0:
                    skip, chunk = max(0, skip - len(chunk)), chunk[skip:]
                if self.arrived + len(chunk) > self.size:
                    self.partial.unlink(missing_ok=True)
                    raise self._wrong("more bytes came than the Hub said there are")
                _write_at(fd, chunk, self.arrived)
                if digest is not None:
                    digest.update(chunk)
                self.arrived += len(chunk)
                self._count(len(chunk))
                self._notify()
                self._raise_if_stopped()

    def _wrong(self, why: str) -> VerificationError:
        return VerificationError(
            f"What was downloaded is not {self._title}.",
            why=why,
            next="Try again; if it stays so, the Hub's copy is damaged.",
        )

    def _notify(self, *, always: bool = False) -> None:
        """Tell the readers, though not of every packet."""
        size, at = self._notified
        now = time.monotonic()
        if always or self.arrived - size >= _NOTIFY_BYTES or now - at >= _NOTIFY_SECONDS:
            self._notified = self.arrived, now
            with self._guard:
                for listener in self._listeners:
                    listener()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _write_at(fd: int, data: bytes, at: int) -> None:
    """Write all of `data` at its place: where locks do nothing, two writers write the same."""
    rest = memoryview(data)
    while rest:  # a disk that is nearly full takes less than it is given
        written = os.pwrite(fd, rest, at)
        rest, at = rest[written:], at + written
