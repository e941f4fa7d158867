"""Folders, from the disk to their rows in the index."""

import gc
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from mdl.cachemgr.facts import Folder
from mdl.cachemgr.probe import settled
from mdl.cachemgr.scan import scan_folder
from mdl.cachemgr.summary import Summary, from_row

# A process is worth its start from some fifty milliseconds of reading on.
_WORTH_A_PROCESS = 100
_MOST_PROCESSES = 8


# Name, probes, facts, linked: as `CacheIndex.put_folders` takes it.
Row = tuple[str, str, str, bool]


def read_folders(root: str, names: Sequence[str], *, marked: bool) -> Iterator[tuple[Summary, Row]]:
    """`read_folder` for each name, by several processes where there are many.

    The garbage collector does not look in between: it would look at every one of some hundred
    thousand small values, and find no cycle in them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        first, *others = _shares(names)
        workers = [_Worker(root, share, marked=marked) for share in others]
        try:
            for name in first:
                yield read_folder(root, name, marked=marked)
            for worker in workers:
                yield from worker.answers()
        finally:
            for worker in workers:
                worker.end()
    finally:
        if enabled:
            gc.enable()


def _shares(names: Sequence[str]) -> list[Sequence[str]]:
    """One share a process.

    Forking is for Linux, and for a process with one thread: another could hold a lock that the
    fork would wait for without end.
    """
    count = len(names) // _WORTH_A_PROCESS
    if count > 1 and sys.platform == "linux" and threading.active_count() == 1:
        count = min(count, len(os.sched_getaffinity(0)), _MOST_PROCESSES)
        return [names[start::count] for start in range(count)]
    return [names]


class _Worker:
    """A forked process that reads its share and sends the rows when it has them all."""

    def __init__(self, root: str, names: Sequence[str], *, marked: bool) -> None:
        self._root, self._names, self._marked = root, names, marked
        self._status = -1
        self._pipe, sending = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(sending)
            return
        status = 1
        try:
            rows = [read_folder(root, name, marked=marked)[1] for name in names]
            with os.fdopen(sending, "w", encoding="ascii") as out:
                json.dump(rows, out)
            status = 0
        finally:
            os._exit(status)  # whatever happened: nothing of the parent's may run twice

    def answers(self) -> Iterator[tuple[Summary, Row]]:
        """The share's rows; read here when the process failed."""
        with os.fdopen(self._pipe, encoding="ascii") as pipe:
            self._pipe = -1
            sent = pipe.read()
        if self.end() != 0:
            for name in self._names:
                yield read_folder(self._root, name, marked=self._marked)
            return
        for name, probes, facts, linked in json.loads(sent):
            yield from_row(name, facts), (name, probes, facts, linked)

    def end(self) -> int:
        """Its exit status; one that still runs, because nobody waits for its rows, is killed."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            os.kill(self._pid, signal.SIGKILL)
        if self._pid:
            self._status = os.waitpid(self._pid, 0)[1]
            self._pid = 0
        return self._status


def read_folder(root: str, name: str, *, marked: bool) -> tuple[Summary, Row]:
    """A folder's summary and its row for `CacheIndex.put_folders`.

    The probes are empty where they could not be trusted: the folder is then read again next time.
    """
    before = time.time_ns()
    folder = scan_folder(root, name, marked=marked)
    trusted = folder.readable and not folder.incomplete and settled(folder.probes, before)
    summary = summarize(folder)
    # JSON in ASCII: names that are no UTF-8 stay what they are, as escaped surrogates.
    probes = json.dumps(folder.probes) if trusted else ""
    return summary, (name, probes, json.dumps(summary[1:]), bool(summary.links))


def summarize(folder: Folder) -> Summary:
    """Sum a folder up."""
    own = 0
    links: list[Any] = []
    shared: list[Any] = []
    names_here: Counter[Any] = Counter()
    repeated = []
    for blob in folder.blobs.values():
        if blob.inode[0] == "shared":
            shared.append((blob.inode[1], blob.size))
        elif blob.links == 1:
            own += blob.size
        else:
            names_here[blob.inode] += 1
            repeated.append(blob)
    for blob in {blob.inode: blob for blob in repeated}.values():
        if names_here[blob.inode] >= blob.links:
            own += blob.size
        else:
            links.append((*blob.inode, blob.size, blob.links, names_here[blob.inode]))
    revisions = []
    logical = 0
    for snapshot in folder.snapshots:
        used = [folder.blobs[p.blob] for p in snapshot.pointers if p.blob is not None]
        size = sum([blob.size for blob in used])
        logical += size
        changed = max([blob.mtime for blob in used], default=snapshot.mtime)
        revisions.append(
            (snapshot.commit, folder.refs_of(snapshot.commit), size,
             len(snapshot.pointers), snapshot.state, changed)
        )  # fmt: skip
    blobs = folder.blobs.values()
    return Summary(
        folder.name,
        folder.alias_of,
        own,
        logical,
        len(folder.blobs),
        max((blob.atime for blob in blobs), default=0.0),
        max((blob.mtime for blob in blobs), default=0.0),
        len(folder.incomplete),
        sum(part.size for part in folder.incomplete),
        folder.no_exist,
        folder.readable,
        revisions,
        list(folder.problems),
        links,
        sorted(set(shared)),
    )
