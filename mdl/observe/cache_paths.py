"""Which repository, commit and file a path below a cache root stands for."""

import contextlib
import os
import time
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from mdl.cachemgr import parse_folder

_COMMIT_DIGITS = 40
_JUST_NOW = 1_000_000_000  # nanoseconds: a folder may change again without another time


class CachePath(NamedTuple):
    """A file of a cache: the real repository folder, the folder's name as the path spells it, and
    `blobs/<etag>` or `snapshots/<commit>/<path>` in it. A payload of the shared store has no
    repository (`folder` is empty).
    """

    root: str
    folder: str
    inside: str

    @property
    def repository(self) -> str:
        return os.path.join(self.root, self.folder)


class SnapshotFile(NamedTuple):
    """A file of a snapshot: the real repository folder, commit, path, and hash (a blob's name)."""

    repository: str
    commit: str
    path: str
    hash: str | None


class RepoSnapshots:
    """The snapshots of one repository folder, read when they are first asked for."""

    def __init__(self, repository: str) -> None:
        self._repository = repository
        self._read: dict[str, int | None] = {}  # folder → its time when it was read

    @cached_property
    def files(self) -> dict[str, dict[str, str | None]]:
        """Commit → path in the snapshot → blob name, `None` for a file that is no link."""
        base = f"{self._repository}/snapshots"
        self._note(base)
        return {commit: dict(self._files(f"{base}/{commit}/")) for commit in _listed(base)}

    @property
    def is_current(self) -> bool:
        """Whether nothing came or went since `files` was read."""
        return all(at is not None and _time_of(each) == at for each, at in self._read.items())

    def _note(self, folder: str) -> None:
        at = _time_of(folder)
        self._read[folder] = at if at is not None and time.time_ns() - at > _JUST_NOW else None

    def _files(self, folder: str, below: str = "") -> Iterator[tuple[str, str | None]]:
        here = folder + below
        self._note(here)
        with contextlib.suppress(OSError), os.scandir(here) as entries:
            for entry in entries:
                path = below + entry.name
                if entry.is_symlink():
                    yield path, os.readlink(entry.path).rpartition("/")[2]
                elif entry.is_dir():
                    yield from self._files(folder, f"{path}/")
                else:
                    yield path, None

    @cached_property
    def by_blob(self) -> dict[str, list[SnapshotFile]]:
        found: dict[str, list[SnapshotFile]] = {}
        for commit, files in self.files.items():
            for path, blob in files.items():
                if blob is not None:
                    found.setdefault(blob, []).append(
                        SnapshotFile(self._repository, commit, path, blob)
                    )
        return found

    @cached_property
    def refs(self) -> dict[str, str]:
        """Branch, tag or `pr/N` → commit."""
        base = f"{self._repository}/refs"
        found = {}
        for folder, _, names in os.walk(base):
            for name in names:
                with (
                    contextlib.suppress(OSError, UnicodeDecodeError),
                    open(f"{folder}/{name}") as f,
                ):
                    found[os.path.relpath(f"{folder}/{name}", base)] = f.read(100).strip()
        return found

    def age_of(self, commit: str) -> float:
        try:
            return os.stat(f"{self._repository}/snapshots/{commit}").st_mtime
        except OSError:
            return 0.0


class CacheFiles:
    """Finds what paths stand for; what was read of a repository is kept until `refresh`."""

    def __init__(self) -> None:
        self._snapshots: dict[str, RepoSnapshots] = {}

    def snapshots(self, repository: str) -> RepoSnapshots:
        return self._snapshots.setdefault(repository, RepoSnapshots(repository))

    def refresh(self) -> None:
        """Read anew what changed: snapshots were added meanwhile."""
        self._snapshots = {r: s for r, s in self._snapshots.items() if s.is_current}

    def members(self, path: str) -> list[SnapshotFile]:
        """The files of snapshots that a real path may have been opened as; none for others."""
        cached = parse_path(path)
        if cached is None:
            return []
        if not cached.folder:
            from mdl.cachemgr.journal import references

            lines = references(path) or ()
            return [
                member
                for line in lines
                if ".." not in line.split("/")
                for member in self._of(parse_path(f"{cached.root}/{line}"))
            ]
        return self._of(cached)

    def _of(self, cached: CachePath | None) -> list[SnapshotFile]:
        if cached is None or not cached.folder:
            return []
        part, _, rest = cached.inside.partition("/")
        if part == "blobs":
            return self.snapshots(cached.repository).by_blob.get(rest, [])
        commit, _, path = rest.partition("/")
        files = self.snapshots(cached.repository).files.get(commit, {})
        return [SnapshotFile(cached.repository, commit, path, files.get(path))] if path else []


def parse_path(path: str) -> CachePath | None:
    """What a path below any cache root names; `None` for every other path."""
    parts = path.split("/")
    for at, part in enumerate(parts[:-2]):
        if "--" in part and parse_folder(part) and parts[at + 1] in ("blobs", "snapshots"):
            return CachePath("/".join(parts[:at]), part, "/".join(parts[at + 1 :]))
    if len(parts) > 3 and parts[-3] == "blobs" and parts[-1].startswith(parts[-2]):
        return CachePath("/".join(parts[:-3]), "", "/".join(parts[-3:]))
    return None


def files_in(folder: str) -> Iterator[str]:
    """The paths of all files below a folder."""
    for where, _, names in os.walk(folder):
        yield from (os.path.join(where, name) for name in names)


def real_path(cached: CachePath) -> CachePath:
    """The same file with links to its root and its repository folder resolved."""
    return CachePath(*os.path.split(real_repository(cached.repository)), cached.inside)


def real_repository(path: str) -> str:
    """A repository folder with links resolved, unless they lead to one of another kind of name."""
    real = os.path.realpath(path)
    return real if parse_folder(os.path.basename(real)) else path


def _listed(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if len(name) == _COMMIT_DIGITS)
    except OSError:
        return []


def _time_of(folder: str) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None
