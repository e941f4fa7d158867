"""The cache as the service holds it: read in a thread of its own, asked from everywhere."""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mdl.cachemgr import CachedRepo, Totals, open_cache
from mdl.errors import BusyError, MdlError
from mdl.resolver import Cached
from mdl.settings import Settings

if TYPE_CHECKING:
    from mdl.cachemgr import Cache

T = TypeVar("T")
_FRESH = 2.0
# Looking at a large cache must not take more than this share of the time.
_SHARE = 20.0


@dataclass(frozen=True)
class CacheState:
    """The cache at one moment. `version` changes when anything in it does."""

    repos: tuple[CachedRepo, ...]
    totals: Totals
    models: dict[str, CachedRepo]
    version: str
    at: float
    took: float


class Lane:
    """One thread with the cache open in it; what is given to it waits its turn."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"mdl-cache-{name}")
        self._cache: Cache | None = None
        self.waiting = 0

    async def run(self, work: "Callable[[Cache], T]") -> T:
        return await self.start(work)

    def start(self, work: "Callable[[Cache], T]") -> "asyncio.Future[T]":
        self.waiting += 1
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._thread, lambda: work(self._opened()))
        future.add_done_callback(self._done)
        return future

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _done(self, _future: "asyncio.Future[T]") -> None:
        self.waiting -= 1

    def _opened(self) -> "Cache":
        if self._cache is None:
            self._cache = open_cache(self._settings)
        return self._cache


class CacheService:
    """Holds the last view. Reading, changing and verifying have a thread each: the view goes on
    while gigabytes are compared.
    """

    def __init__(self, settings: Settings) -> None:
        # Where the Hub is asked (for its spelling of a name), it is asked as nobody.
        self.settings = settings._replace(token=None)
        self.root = Path(settings.cache_root)
        self.reading = Lane("read", self.settings)
        self.changing = Lane("change", self.settings)
        self._verifying = Lane("verify", self.settings)
        self.closing = threading.Event()
        self._view: CacheState | None = None
        self._now_reading: asyncio.Future[CacheState] | None = None

    def close(self) -> None:
        """An action that has begun is finished, a verification ends at the next file."""
        self.closing.set()
        for lane in (self.reading, self.changing, self._verifying):
            lane.close()

    @property
    def held(self) -> CacheState | None:
        return self._view

    async def verify(self, work: "Callable[[Cache], T]") -> T:
        """Run a verification; one at a time.

        Raises:
            BusyError: one is running.
        """
        if self._verifying.waiting:
            raise BusyError("A verification is running.", next="Try again when it is done.")
        return await self._verifying.run(work)

    def cached(self, repo_id: str, revision: str | None) -> Cached | None:
        """The resolver's view of the disk: never older than a few seconds, never waiting."""
        self._refresh_if_old()
        view = self._view
        repo = view.models.get(repo_id.casefold()) if view else None
        if repo is None:
            return None
        wanted = revision or "main"
        found = [r for r in repo.revisions if r.commit == wanted or wanted in r.refs]
        if not found:
            return None
        best = min(found, key=lambda r: r.state != "complete")
        folder = "models--" + best.spelling.replace("/", "--")
        path = str(self.root / folder / "snapshots" / best.commit)
        return Cached(best.state == "complete", path, best.size, best.commit, best.spelling)

    async def view(self) -> CacheState:
        """The cache as it is now, or was at most two seconds ago.

        Raises:
            DiskError: the root cannot be read.
        """
        view = self._view
        if view is not None and not _is_old(view):
            return view
        return await self._start_reading()

    def forget(self) -> None:
        """What is held is out of date: something was changed."""
        self._view = None

    def _refresh_if_old(self) -> None:
        view = self._view
        if view is not None and not _is_old(view):
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # in a thread: the event loop's next request does it
        del loop
        self._start_reading()

    def _start_reading(self) -> "asyncio.Future[CacheState]":
        if self._now_reading is None or self._now_reading.done():
            self._now_reading = self.reading.start(self._read)
            self._now_reading.add_done_callback(_looked_at)
        return self._now_reading

    def _read(self, cache: "Cache") -> CacheState:
        start = time.monotonic()
        repos, totals = cache.listing()
        text = json.dumps([[r.to_json() for r in repos], totals.to_json()], sort_keys=True)
        self._view = CacheState(
            repos=tuple(repos),
            totals=totals,
            models={r.repo_id.casefold(): r for r in repos if r.repo_type == "model"},
            version=hashlib.sha256(text.encode()).hexdigest()[:16],
            at=time.monotonic(),
            took=time.monotonic() - start,
        )
        return self._view


def _is_old(view: CacheState) -> bool:
    return time.monotonic() - view.at > max(_FRESH, _SHARE * view.took)


def _looked_at(future: "asyncio.Future[CacheState]") -> None:
    """An error reaches whoever awaits; nobody may be awaiting."""
    if not future.cancelled() and isinstance(future.exception(), MdlError):
        return


def listing_json(root: Path, view: CacheState, *, inside: bool) -> dict[str, Any]:
    """The object of `mdl cache ls --json`; the root's path only for those who may know it."""
    return {
        "root": str(root) if inside else None,
        "repos": [repo.to_json() for repo in view.repos],
        "totals": view.totals.to_json(),
        "version": view.version,
    }
