"""The cache as the service holds it: read in one thread, asked from everywhere."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mdl.cachemgr import CachedRepo, Totals, open_cache
from mdl.errors import MdlError
from mdl.resolver.types import Cached
from mdl.settings import Settings

if TYPE_CHECKING:
    from mdl.cachemgr import Cache

T = TypeVar("T")
_FRESH = 2.0
# Looking at a large cache must not take more than this share of the time.
_SHARE = 20.0


@dataclass(frozen=True)
class View:
    """The cache at one moment. `version` changes when anything in it does."""

    repos: tuple[CachedRepo, ...]
    totals: Totals
    models: dict[str, CachedRepo]
    version: str
    at: float
    took: float


class Keeper:
    """Holds the last view; everything that touches the disk runs in its one thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.root: Path = settings.cache_root
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mdl-cache")
        self._cache: Cache | None = None
        self._view: View | None = None
        self._reading: asyncio.Future[View] | None = None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def held(self) -> View | None:
        return self._view

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

    async def view(self) -> View:
        """The cache as it is now, or was at most two seconds ago.

        Raises:
            DiskError: the root cannot be read.
        """
        view = self._view
        if view is not None and not _is_old(view):
            return view
        return await self._start_reading()

    async def in_thread(self, work: "Callable[[Cache], T]") -> T:
        """Run `work` with the cache in its thread; others wait their turn."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(self._opened()))

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

    def _start_reading(self) -> "asyncio.Future[View]":
        if self._reading is None or self._reading.done():
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._thread, self._read)
            self._reading.add_done_callback(_looked_at)
        return self._reading

    def _opened(self) -> "Cache":
        if self._cache is None:
            self._cache = open_cache(self.settings)
        return self._cache

    def _read(self) -> View:
        start = time.monotonic()
        repos, totals = self._opened().listing()
        text = json.dumps([[r.to_json() for r in repos], totals.to_json()], sort_keys=True)
        self._view = View(
            repos=tuple(repos),
            totals=totals,
            models={r.repo_id.casefold(): r for r in repos if r.repo_type == "model"},
            version=hashlib.sha256(text.encode()).hexdigest()[:16],
            at=time.monotonic(),
            took=time.monotonic() - start,
        )
        return self._view


def _is_old(view: View) -> bool:
    return time.monotonic() - view.at > max(_FRESH, _SHARE * view.took)


def _looked_at(future: "asyncio.Future[View]") -> None:
    """An error reaches whoever awaits; nobody may be awaiting."""
    if not future.cancelled() and isinstance(future.exception(), MdlError):
        return


def listing_json(root: Path, view: View, *, inside: bool) -> dict[str, Any]:
    """The object of `mdl cache ls --json`; the root's path only for those who may know it."""
    return {
        "root": str(root) if inside else None,
        "repos": [repo.to_json() for repo in view.repos],
        "totals": view.totals.to_json(),
        "version": view.version,
    }
