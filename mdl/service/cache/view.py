"""The cache as the service sees it: read in a thread, and remembered for some seconds."""

import asyncio
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mdl.cachemgr import CachedRepo, CachedRevision, Totals, open_cache
from mdl.errors import BusyError, MdlError
from mdl.resolver import Cached
from mdl.settings import Settings

if TYPE_CHECKING:
    from mdl.cachemgr import Cache

T = TypeVar("T")
_FRESH = 2.0
# Reading a large cache takes at most one twentieth of the time.
_TIMES_ITS_DURATION = 20.0


@dataclass(frozen=True)
class CacheState:
    """The cache at one moment. `version` changes when anything in it does."""

    repos: tuple[CachedRepo, ...]
    totals: Totals
    models: dict[str, CachedRepo]
    version: str
    at: float
    took: float


class CacheThread:
    """A thread in which the cache is open; its work is done one by one."""

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
    """The last known state of the cache, and a thread each for reading, changing and verifying.

    So the state stays current while gigabytes are compared.
    """

    def __init__(self, settings: Settings) -> None:
        # The Hub is asked for its spelling of a name, and without the server's own token.
        self.settings = settings._replace(token=None)
        self.root = Path(settings.cache_root)
        self.reading = CacheThread("read", self.settings)
        self.changing = CacheThread("change", self.settings)
        self._verifying = CacheThread("verify", self.settings)
        self.closing = threading.Event()
        self.last: CacheState | None = None
        self._reading_now: asyncio.Future[CacheState] | None = None

    def close(self) -> None:
        """Finish an action that has begun; end a verification at once."""
        self.closing.set()
        for thread in (self.reading, self.changing, self._verifying):
            thread.close()

    async def verify(self, work: "Callable[[Cache], T]") -> T:
        """Run a verification; one at a time.

        Raises:
            BusyError: one is running.
        """
        if self._verifying.waiting:
            raise BusyError("A verification is already running.", next="Try again when it is done.")
        return await self._verifying.run(work)

    def __call__(self, repo_id: str, revision: str | None) -> Cached | None:
        """The resolver's view of the disk; never waits, and is a few seconds old at most."""
        wanted = revision or "main"
        revisions = self._revisions(repo_id)
        found = [r for r in revisions if r.commit == wanted or wanted in r.refs]
        if not found:
            return None
        best = min(found, key=lambda r: r.state != "complete")
        folder = "models--" + best.spelling.replace("/", "--")
        path = str(self.root / folder / "snapshots" / best.commit)
        return Cached(best.state == "complete", path, best.size, best.commit, best.spelling)

    def revisions(self, repo_id: str, but: str | None) -> tuple[str, ...]:
        here = self._revisions(repo_id)
        refs = (ref for revision in here for ref in revision.refs)
        return (*refs, *(revision.commit for revision in here))

    def _revisions(self, repo_id: str) -> Sequence[CachedRevision]:
        self._refresh_if_old()
        repo = self.last.models.get(repo_id.casefold()) if self.last else None
        return repo.revisions if repo is not None else ()

    async def state(self) -> CacheState:
        """The cache as it is now, or as it was two seconds ago.

        Raises:
            DiskError: the root cannot be read.
        """
        if self.last is not None and not _is_old(self.last):
            return self.last
        return await self._start_reading()

    def forget(self) -> None:
        """Read the cache again when it is next needed: something was changed."""
        self.last = None

    def _refresh_if_old(self) -> None:
        if self.last is not None and not _is_old(self.last):
            return
        # In a thread of its own, the next request in the event loop does it.
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            self._start_reading()

    def _start_reading(self) -> "asyncio.Future[CacheState]":
        if self._reading_now is None or self._reading_now.done():
            self._reading_now = self.reading.start(self._read)
            self._reading_now.add_done_callback(_ignore_error)
        return self._reading_now

    def _read(self, cache: "Cache") -> CacheState:
        start = time.monotonic()
        repos, totals = cache.listing()
        text = json.dumps([[r.to_json() for r in repos], totals.to_json()], sort_keys=True)
        self.last = state = CacheState(
            repos=tuple(repos),
            totals=totals,
            models={r.repo_id.casefold(): r for r in repos if r.repo_type == "model"},
            version=hashlib.sha256(text.encode()).hexdigest()[:16],
            at=time.monotonic(),
            took=time.monotonic() - start,
        )
        return state


def _is_old(state: CacheState) -> bool:
    return time.monotonic() - state.at > max(_FRESH, _TIMES_ITS_DURATION * state.took)


def _ignore_error(future: "asyncio.Future[CacheState]") -> None:
    """Whoever awaits it gets the error; if nobody does, asyncio must not complain."""
    if not future.cancelled() and isinstance(future.exception(), MdlError):
        return


def listing_json(root: Path, state: CacheState, *, internal: bool) -> dict[str, Any]:
    """The object of `mdl cache ls --json`; with the root's path only for the role admin."""
    return {
        "root": str(root) if internal else None,
        "repos": [repo.to_json() for repo in state.repos],
        "totals": state.totals.to_json(),
        "version": state.version,
    }
