"""Split work on many items among forked processes, where that is faster."""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_MOST_PROCESSES = 8

Work = Callable[[Sequence[Any]], list[Any]]


def in_processes(work: Work, items: Sequence[Any], *, worth: int) -> Iterator[Any]:
    """Yield what `work` returns for the items, in any order.

    Args:
        work: maps items to a list that JSON can represent. It runs in a fork of this process: it
            only reads, and takes no lock.
        worth: the number of items that pays for starting a process.
    """
    own, *others = _shares(items, worth)
    workers: list[_Worker] = []
    try:
        with contextlib.suppress(OSError):  # no more processes can be started
            for share in others:
                workers.append(_Worker(work, share))
        for share in (own, *others[len(workers) :]):
            yield from work(share)
        for worker in workers:
            yield from worker.results()
    finally:
        for worker in workers:
            worker.end()


def _shares(items: Sequence[Any], worth: int) -> list[Sequence[Any]]:
    """Split the items into one share per process.

    Fork only on Linux and with a single thread: a lock that another thread holds would never be
    released in the fork.
    """
    count = len(items) // worth
    if count > 1 and sys.platform == "linux" and threading.active_count() == 1:
        count = min(count, len(os.sched_getaffinity(0)), _MOST_PROCESSES)
        return [items[start::count] for start in range(count)]
    return [items]


class _Worker:
    """A forked process that works on its share and sends all its results at the end."""

    def __init__(self, work: Work, share: Sequence[Any]) -> None:
        self._work, self._share = work, share
        self._status = -1
        self._pipe, sending = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._pipe)
            os.close(sending)
            raise
        if self._pid:
            os.close(sending)
            return
        status = 1
        try:
            with os.fdopen(sending, "w", encoding="ascii") as out:
                json.dump(work(share), out)
            status = 0
        finally:
            os._exit(status)  # whatever happened: none of the parent's code may run twice

    def results(self) -> list[Any]:
        """The share's results; computed here if the process failed."""
        with os.fdopen(self._pipe, encoding="ascii") as pipe:
            self._pipe = -1
            sent = pipe.read()
        found: list[Any] = json.loads(sent) if self.end() == 0 else self._work(self._share)
        return found

    def end(self) -> int:
        """Its exit status; a process whose results were not read is killed."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            os.kill(self._pid, signal.SIGKILL)
        if self._pid:
            self._status = os.waitpid(self._pid, 0)[1]
            self._pid = 0
        return self._status
