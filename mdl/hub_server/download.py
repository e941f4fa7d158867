"""One download under way: which file, for whom, how far it is, and how fast."""

import threading
import time
from pathlib import Path
from typing import Any

from mdl.cachemgr.fill import BlobFill
from mdl.hub_server.knowledge import Repo

_RECENT, _STEP = 5.0, 0.25  # seconds that a speed is measured over, and that a count is kept for


class Download:
    """A blob on its way into the cache.

    Attributes:
        names: (folder, commit, path) of each file that it will be.
        asked_by: addresses of the clients that wait for it.
    """

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self.names: dict[tuple[Path, str, str], None] = {}
        self.asked_by: dict[str, None] = {}
        self.speed = Speed()
        self.began = time.time()
        self.fill: BlobFill  # set by who begins it: its callback is this one's speed

    def add(self, name: tuple[Path, str, str], address: str) -> None:
        self.names[name] = None
        self.asked_by[address] = None

    def to_json(self) -> dict[str, Any]:
        """Sizes in bytes, `began` in seconds since 1970."""
        _, commit, path = next(iter(self.names))
        return {
            "repo_id": self.repo.repo_id,
            "repo_type": self.repo.repo_type,
            "commit": commit,
            "path": path,
            "size": self.fill.size,
            "arrived": self.fill.arrived,
            "bytes_per_second": self.speed.now(),
            "began": self.began,
            "asked_by": list(self.asked_by),
        }


class Speed:
    """Bytes a second over the last few seconds; safe for threads."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._counts: list[tuple[float, int]] = []
        self._guard = threading.Lock()

    def add(self, count: int) -> None:
        now = time.monotonic()
        with self._guard:
            if self._counts and now - self._counts[-1][0] < _STEP:
                self._counts[-1] = (self._counts[-1][0], self._counts[-1][1] + count)
            else:
                self._counts = [*self._recent(now), (now, count)]

    def now(self) -> float:
        now = time.monotonic()
        with self._guard:
            count = sum(count for _, count in self._recent(now))
        return count / max(_STEP, min(_RECENT, now - self._began))

    def _recent(self, now: float) -> list[tuple[float, int]]:
        return [each for each in self._counts if now - each[0] < _RECENT]
