"""One piece of work over many items, shared among forked processes where that is faster."""

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
    """What `work` lists for the items, share after share: the order is not that of the items.

    Args:
        work: from items to a list that JSON can carry. It only reads, and holds no lock: a copy
            of this process runs it.
        worth: so many items are worth a process's start.
    """
    own, *others = _shares(items, worth)
    workers: list[_Worker] = []
    try:
        with contextlib.suppress(OSError):  # no further process is to be had
            for share in others:
                workers.append(_Worker(work, share))
        for share in (own, *others[len(workers) :]):
            yield from work(share)
        for worker in workers:
            yield from worker.answers()
    finally:
        for worker in workers:
            worker.end()


def _shares(items: Sequence[Any], worth: int) -> list[Sequence[Any]]:
    """One share a process.

    Forking is for Linux, and for a process with one thread: another could hold a lock that the
    fork would wait for without end.
    """
    count = len(items) // worth
    if count > 1 and sys.platform == "linux" and threading.active_count() == 1:
        count = min(count, len(os.sched_getaffinity(0)), _MOST_PROCESSES)
        return [items[start::count] for start in range(count)]
    return [items]


class _Worker:
    """A forked process that works on its share and sends what it has when it has it all."""

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
            os._exit(status)  # whatever happened: nothing of the parent's may run twice

    def answers(self) -> list[Any]:
        """What the share gave; worked out here when the process failed."""
        with os.fdopen(self._pipe, encoding="ascii") as pipe:
            self._pipe = -1
            sent = pipe.read()
        found: list[Any] = json.loads(sent) if self.end() == 0 else self._work(self._share)
        return found

    def end(self) -> int:
        """Its exit status; one that still runs, because nobody waits for it, is killed."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            os.kill(self._pid, signal.SIGKILL)
        if self._pid:
            self._status = os.waitpid(self._pid, 0)[1]
            self._pid = 0
        return self._status
