"""Verify each blob's content against its name and each snapshot against its listing, offline.

The Hub names LFS files by the sha256 of their content and small ones by git's blob sha1. Results
are remembered, so that an interrupted run can be resumed.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.cachemgr.layout import COMMIT_LENGTH, SHA256_LENGTH, is_hash
from mdl.cachemgr.scan import (
    Folder,
    chunks,
    content_path,
    read_tree_listing,
    scan_folder,
    store_is_marked,
)
from mdl.errors import BusyError, UsageError, VerificationError
from mdl.store import CacheIndex

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache

# A result for unchanged content is trusted for a day: long enough to resume a run, and short
# enough that bit rot is found.
FRESH_SECONDS = 86400.0
# How often results are remembered, so that a killed run loses little, and progress is shown.
_SAVE_SECONDS = 2.0
_BEAT_SECONDS = 0.2


class Job(NamedTuple):
    """One file to hash. `names` are the (folder, blob) names it has."""

    path: str
    expected: str
    size: int
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class BadFile:
    """A file that is not what it should be. `files` are the (commit, path) that show it."""

    folder: str
    blob: str | None
    files: tuple[tuple[str, str], ...]
    problem: str

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "blob": self.blob,
            "files": [{"commit": commit, "path": path} for commit, path in self.files],
            "problem": self.problem,
        }


@dataclass
class VerifyReport:
    """What a run found. `unknown` counts blobs whose names are not hashes."""

    checked: int = 0
    skipped: int = 0
    bytes: int = 0
    unknown: int = 0
    bad: list[BadFile] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "checked": self.checked,
            "skipped": self.skipped,
            "bytes": self.bytes,
            "unknown": self.unknown,
            "bad": [bad.to_json() for bad in self.bad],
        }


class Pace:
    """What all readers together have read, and may still read.

    Args:
        rate: bytes a second; `None` for no limit.
        stop: set from another thread to end every reader within a piece of its file.

    Attributes:
        ended: ends every reader too; the run's own, where `stop` is its caller's.
    """

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self.bytes = 0
        self.ended = False
        self._rate = rate
        self._stop = stop
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def __call__(self, count: int) -> None:
        """Count bytes just read, and wait if that was too fast.

        Raises:
            BusyError: the run is to end.
        """
        with self._lock:
            self.bytes += count
            now = time.monotonic()
            if self._rate is not None:
                self._next = max(self._next, now) + count / self._rate
            end = self._next
        while not self.ended and (left := end - time.monotonic()) > 0:
            if self._stop.wait(min(left, _BEAT_SECONDS)):
                break
        self.check()

    def check(self) -> None:
        if self.ended or self._stop.is_set():
            raise BusyError(
                "The verification was stopped.", next="Run it again: it continues where it was."
            )


def jobs_of(root: str, folders: Iterable[Folder]) -> tuple[list[Job], int]:
    """The files to hash, each inode once, largest first; and how many names are not hashes."""
    found: dict[tuple[Any, str], Job] = {}
    unknown = 0
    for folder in folders:
        listed = _listed(root, folder)
        for blob in folder.blobs.values():
            expected = blob.name
            path = content_path(root, folder.name, blob)
            if blob.name.startswith("snapshots/"):
                # A file that a link leads to may itself be called by its hash: a cache that moved.
                expected = listed.get(blob.name.removeprefix("snapshots/"), os.path.basename(path))
            if algorithm(expected) is None:
                unknown += 1
                continue
            key = (blob.inode, expected)
            names = found[key].names if key in found else ()
            found[key] = Job(path, expected, blob.size, (*names, (folder.name, blob.name)))
    return sorted(found.values(), key=lambda job: -job.size), unknown


def _listed(root: str, folder: Folder) -> dict[str, str]:
    """`commit/path` → its hash in the tree listing."""
    return {
        f"{snapshot.commit}/{path}": file.hash
        for snapshot in folder.snapshots
        for path, file in (read_tree_listing(root, folder.name, snapshot.commit) or {}).items()
    }


def algorithm(name: str) -> str | None:
    if is_hash(name, SHA256_LENGTH):
        return "sha256"
    return "git-sha1" if is_hash(name, COMMIT_LENGTH) else None


def hash_file(path: str, kind: str, pause: Callable[[int], None] | None = None) -> str:
    """The `sha256` of a file, or its `git-sha1`: git's hash of it as a blob. Follows no links."""
    if kind == "sha256":
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % os.path.getsize(path), usedforsecurity=False)
    for chunk in chunks(path, pause):
        digest.update(chunk)
    return digest.hexdigest()


def stamp_of(path: str) -> str | None:
    """A text that changes whenever the content does; `None` for a missing file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"


def select_folders(
    cache: "Cache", names: Sequence[str], repo_type: str | None = None
) -> list[Folder]:
    """The folders of these repositories in every casing, without aliases; all if `names` is empty.

    Raises:
        NotFoundError: a repository is not in the cache.
        UsageError: a name is ambiguous.
    """
    if names:
        repos = [cache.repo(name, repo_type) for name in names]
        folders = [
            folder for repo in repos for folder in cache.folders_of(repo.repo_id, repo.repo_type)
        ]
    else:
        root = os.fspath(cache.root)
        marked = store_is_marked(root)
        folders = [
            scan_folder(root, summary.name, marked=marked) for summary in cache.survey().summaries
        ]
    return [
        folder
        for folder in folders
        if folder.alias_of is None and repo_type in (None, folder.repo_type)
    ]


def verification_error(count: int) -> VerificationError:
    """The error for a run that found `count` bad files."""
    return VerificationError(
        f"{count} files are damaged or missing." if count > 1 else "1 file is damaged or missing.",
        next="`mdl cache verify --repair` downloads them again.",
    )


class Verifier:
    """One run over some folders.

    Args:
        workers: how many files to hash at the same time.
        rate: bytes a second for all of them together; `None` for no limit.
        again: also hash what a recent run found good.
        progress: called with (bytes read, bytes in total) several times a second.
        stop: set from another thread to end the run within a second.

    Raises:
        UsageError: a rate of 0 would read nothing.
    """

    def __init__(
        self,
        root: str,
        index: CacheIndex,
        *,
        workers: int | None = None,
        rate: float | None = None,
        again: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
        stop: threading.Event | None = None,
    ) -> None:
        self.root = root
        self.index = index
        self.workers = workers or os.cpu_count() or 1
        self.again = again
        self.progress = progress
        if rate == 0:
            raise UsageError(
                "A throttle of 0 would read nothing.", next="Leave it out, or give more."
            )
        self.pace = Pace(rate, stop or threading.Event())

    def run(self, folders: Sequence[Folder]) -> VerifyReport:
        """Hash what is not known to be good, and compare the snapshots with their listings.

        Raises:
            BusyError: `stop` was set. What was hashed until then is remembered, as it is after
                KeyboardInterrupt.
        """
        report = VerifyReport()
        jobs, report.unknown = jobs_of(self.root, folders)
        waiting = [job for job in jobs if not self._known_good(job, report)]
        total = sum(job.size for job in waiting)
        by_name = {folder.name: folder for folder in folders}
        rows: list[tuple[str, str, str]] = []
        saved = time.monotonic()
        try:
            for done in self._hashes(waiting):
                self.progress(min(self.pace.bytes, total), total)
                for job, stamp, found in done:
                    report.checked += 1
                    report.bytes += job.size
                    rows.append((job.path, stamp, "good" if found == job.expected else found))
                    if found != job.expected:
                        report.bad += _bad_names(job, found, by_name)
                if rows and time.monotonic() - saved > _SAVE_SECONDS:
                    self.index.put_verified(rows)
                    rows, saved = [], time.monotonic()
        finally:
            self.index.put_verified(rows)
        self.progress(total, total)
        for folder in folders:
            report.bad += compare_snapshots(self.root, folder)
        return report

    def _known_good(self, job: Job, report: VerifyReport) -> bool:
        if self.again:
            return False
        row = self._verified.get(job.path)
        good = row is not None and row == (stamp_of(job.path), "good")
        report.skipped += good
        return good

    @cached_property
    def _verified(self) -> dict[str, tuple[str, str]]:
        return self.index.verified(time.time() - FRESH_SECONDS)

    def _hashes(self, jobs: Sequence[Job]) -> Iterator[list[tuple[Job, str, str]]]:
        """Yield lists of (job, stamp, hash) as they come, and empty ones while nothing does.

        Files that disappear or change meanwhile are left out.
        """
        queue = iter(jobs)
        with ThreadPoolExecutor(self.workers) as pool:
            running: set[Future[tuple[Job, str, str] | None]] = set()
            try:
                while True:
                    for job in islice(queue, self.workers * 2 - len(running)):
                        running.add(pool.submit(self._hash, job))
                    if not running:
                        return
                    done, running = wait(running, _BEAT_SECONDS, return_when=FIRST_COMPLETED)
                    yield [found for future in done if (found := future.result()) is not None]
                    self.pace.check()
            except BaseException:
                self.pace.ended = True  # whatever ends the run ends its threads
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _hash(self, job: Job) -> tuple[Job, str, str] | None:
        for _ in range(3):
            stamp = stamp_of(job.path)
            if stamp is None:
                return None
            try:
                found = hash_file(job.path, algorithm(job.expected) or "", self.pace)
            except OSError as error:
                return job, stamp, f"cannot be read: {error.strerror or error}"
            if stamp_of(job.path) == stamp:
                return job, stamp, found
        return None


def _bad_names(job: Job, found: str, folders: dict[str, Folder]) -> list[BadFile]:
    bad = []
    for name, blob in job.names:
        files = tuple(
            (snapshot.commit, pointer.path)
            for snapshot in folders[name].snapshots
            for pointer in snapshot.pointers
            if pointer.blob == blob
        )
        problem = found if " " in found else f"its content hashes to {found[:12]}…"
        bad.append(BadFile(name, blob, files, problem))
    return bad


def compare_snapshots(root: str, folder: Folder) -> list[BadFile]:
    """Compare the snapshots with their listings: files missing, pointing nowhere, or swapped."""
    bad = []
    for snapshot in folder.snapshots:
        listed = read_tree_listing(root, folder.name, snapshot.commit) or {}
        for pointer in snapshot.pointers:
            where = ((snapshot.commit, pointer.path),)
            file = listed.get(pointer.path)
            if pointer.blob is None:
                bad.append(BadFile(folder.name, None, where, "points to no blob"))
            elif pointer.blob.startswith("snapshots/"):
                continue
            elif file is not None and file.hash != pointer.blob:
                problem = f"is not the file its listing names ({file.hash[:12]}…)"
                bad.append(BadFile(folder.name, pointer.blob, where, problem))
        for path in snapshot.missing if listed else ():  # a partial download is no damage
            bad.append(BadFile(folder.name, None, ((snapshot.commit, path),), "is missing"))
    return bad
