"""Updating the index: probe every folder, and read again only those that changed.

A folder's probes are the change stamps of the folders in it. They miss content that changes in
place, and hard links made elsewhere to its blobs; `mdl cache verify` reads content, and `mdl cache
ls --rebuild` reads everything again.
"""

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mdl.cachemgr.index.grouping import Summary, parse_summaries
from mdl.cachemgr.layout import ROOT_EXTRAS, SHA256_LENGTH, is_hash, parse_folder
from mdl.cachemgr.scan import change_stamp, in_processes, store_is_marked, trustworthy
from mdl.errors import BusyError, DiskError, StoreError
from mdl.store import CacheIndex, FolderRow

if TYPE_CHECKING:
    from mdl.cachemgr.index.breakdown import Breakdown

_STORE = "blobs"
# A process pays for its start from some 25 milliseconds of stat calls on.
_WORTH_A_PROCESS = 1500


class Survey(NamedTuple):
    """A root, up to date.

    Attributes:
        breakdowns: one for each summary if they were requested, else none.
        store: xet hash → size of every payload in the shared store.
        read: how many folders had to be read again.
        strangers: entries of the root that are neither repositories nor huggingface_hub's.
    """

    summaries: list[Summary]
    breakdowns: list["Breakdown"]
    store: dict[str, int]
    read: int
    strangers: list[str]


def survey(root: str, index: CacheIndex, *, breakdowns: bool = False) -> Survey:
    """Read what changed since the last survey, and remember it.

    Raises:
        DiskError: the root cannot be read, or is not a folder.
    """
    names, strangers = _root_entries(root)
    names.sort()
    known = index.folders(breakdowns=breakdowns)
    marked = store_is_marked(root)
    probed = [(name, known[name].probes) for name in names if name in known and known[name].probes]
    still = {name for name, _ in probed}.difference(_moved(root, probed))
    stale = [name for name in names if name not in still]
    found = {name: row for name in names if (row := known.pop(name, None)) is not None}
    fresh: list[FolderRow] = []
    if stale:
        from mdl.cachemgr.index.rescan import read_folders

        fresh += read_folders(root, stale, marked=marked)
        found.update((row.name, row) for row in fresh)
    store = _survey_store(root, known.pop(_STORE, None), fresh) if marked else {}
    if fresh or known:
        with contextlib.suppress(StoreError, BusyError):  # not stored: read again next time
            index.put_folders(fresh, known)
    summaries = parse_summaries(names, [found[name].facts for name in names])
    detailed: list[Breakdown] = []
    if breakdowns:
        from mdl.cachemgr.index.breakdown import parse_breakdowns

        detailed = parse_breakdowns(found[name].breakdown for name in names)
    return Survey(summaries, detailed, store, len(stale), strangers)


def _root_entries(root: str) -> tuple[list[str], list[str]]:
    names: list[str] = []
    strangers: list[str] = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if parse_folder(entry.name):
                    names.append(entry.name)
                elif entry.name not in ROOT_EXTRAS and not entry.name.startswith("tmp"):
                    strangers.append(entry.name)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise DiskError(
            f"The cache root {root} cannot be read.",
            why=error.strerror or str(error),
            next="Check HF_HUB_CACHE and HF_HOME, and the folder's permissions.",
        ) from error
    return names, strangers


def _moved(root: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The names of those (name, probes) whose stamps have changed."""
    with _base(root) as (base, start):

        def moved(share: Sequence[tuple[str, str]]) -> list[str]:
            # Parsed together: thousands of calls of the parser would take twice as long.
            stamps = json.loads(f"[{','.join([probes for _, probes in share])}]")
            return [
                name
                for (name, _), probes in zip(share, stamps, strict=True)
                if not _unchanged(start + name, probes, base)
            ]

        yield from in_processes(moved, rows, worth=_WORTH_A_PROCESS)


@contextlib.contextmanager
def _base(root: str) -> Iterator[tuple[int | None, str]]:
    """(descriptor, prefix of paths relative to it): saves a fifth of thousands of stat calls.

    No descriptor, and absolute paths, where stat takes none (Windows) or the root is missing.
    """
    if os.stat not in os.supports_dir_fd or not os.path.isdir(root):
        yield None, f"{root}/"
        return
    base = os.open(root, os.O_RDONLY)
    try:
        yield base, ""
    finally:
        os.close(base)


def _unchanged(path: str, probes: Iterable[tuple[str, int]], base: int | None = None) -> bool:
    """Are all the stamps the same? `path` is relative to `base` if one is given."""
    try:
        for relative, stamp in probes:
            where = f"{path}/{relative}" if relative else path
            if change_stamp(os.stat(where, dir_fd=base, follow_symlinks=False)) != stamp:
                return False
    except OSError:
        return False
    return True


def _survey_store(root: str, row: FolderRow | None, fresh: list[FolderRow]) -> dict[str, int]:
    path = os.path.join(root, _STORE)
    if row is not None and row.probes and _unchanged(path, json.loads(row.probes)):
        store: dict[str, int] = json.loads(row.facts)
        return store
    before = time.time_ns()
    probes, store = read_store(path)
    trusted = json.dumps(probes) if trustworthy(probes, before) else ""
    fresh.append(FolderRow(_STORE, trusted, json.dumps(store)))
    return store


def read_store(path: str) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """(probes, xet hash → size) of a marked shared store."""
    probes: list[tuple[str, int]] = []
    store: dict[str, int] = {}
    waiting = [""]
    while waiting:
        relative = waiting.pop()
        where = os.path.join(path, relative)
        try:
            probes.append((relative, change_stamp(os.lstat(where))))
            with os.scandir(where) as entries:
                for entry in entries:
                    if not relative and len(entry.name) == 2:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.name)
                    elif relative == entry.name[:2] and is_hash(entry.name, SHA256_LENGTH):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            store[entry.name] = status.st_size
        except OSError:
            continue
    return probes, store


def tree_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(files, bytes) below a folder, counting each inode once and following no link."""
    files = size = 0
    seen: set[tuple[int, int]] = set()
    waiting = [os.fspath(path)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        files += 1
                        if status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen:
                            seen.add((status.st_dev, status.st_ino))
                            size += status.st_size
        except OSError:
            continue
    return files, size
