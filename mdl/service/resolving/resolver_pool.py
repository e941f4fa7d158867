"""Resolves names for many callers at once: in the event loop if that is quick, or in threads."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from mdl.errors import BusyError, MdlError, StoreError
from mdl.resolver import (
    Access,
    CacheView,
    Family,
    Resolution,
    ResolveOptions,
    family,
    parse_name,
)
from mdl.service.config import ServiceConfig
from mdl.service.metrics import Metrics
from mdl.service.resolving.caller_resolver import CallerMemory, CallerResolver, NeedsThread, Outage
from mdl.service.resolving.deadline import Deadline
from mdl.service.resolving.resolution_log import ResolutionLog
from mdl.settings import Settings
from mdl.store import Catalog, NameRecord, open_catalog

T = TypeVar("T")
Known = Mapping[str, NameRecord] | None

_REOPEN_AFTER = 1.0
_READ_AHEAD = 1 << 31  # bytes of a catalogue at most
_BULK_SHARE = 0.8  # of the time of a request, so that what was resolved is sent in time


class Caller(NamedTuple):
    """Whose request this is.

    Attributes:
        role: what this service's token allows (see `auth.ROLES`).
        hub_token: the caller's own Hub token; lives as long as the request.
    """

    role: str
    hub_token: str | None = None


class ResolverPool:
    """The resolver behind the service. Its state may be lost: the database is the truth."""

    def __init__(
        self, settings: Settings, config: ServiceConfig, cached: CacheView, metrics: Metrics
    ) -> None:
        self.settings = settings
        self._cached = cached
        self._metrics = metrics
        self._outage = Outage()
        self._memory = CallerMemory()
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix="mdl-resolve")
        # Apart, so that a few large requests do not hold every thread, nor any of them readiness.
        self._bulk_threads = ThreadPoolExecutor(config.threads, thread_name_prefix="mdl-bulk")
        self._ready_thread = ThreadPoolExecutor(1, thread_name_prefix="mdl-ready")
        self._seconds = config.request_seconds
        self._waiting = 0
        self._max_waiting = config.max_waiting
        self._catalog: Catalog | None = None
        self._opening = threading.Lock()
        self._failed: tuple[float, MdlError] | None = None
        self._log = ResolutionLog()
        self._flushing = threading.Lock()

    # -- the database -------------------------------------------------------------------------

    def catalog(self) -> Catalog:
        """The open catalogue; call it in a thread.

        Raises:
            StoreError, BusyError: it cannot be opened now; tried again at most once a second.
        """
        with self._opening:
            if self._catalog is not None:
                return self._catalog
            if self._failed and time.monotonic() - self._failed[0] < _REOPEN_AFTER:
                raise self._failed[1]
            try:
                if self.settings.on_sqlite and self._failed is None:
                    _read_ahead(self.settings.database_path)
                self._catalog = open_catalog(self.settings)
            except MdlError as error:
                self._failed = (time.monotonic(), error)
                raise
            return self._catalog

    async def check(self) -> None:
        """Look something up, in a thread that nothing else uses.

        Raises:
            StoreError, BusyError: names cannot be resolved now.
        """
        work = self._ready_thread.submit(lambda: self.catalog().version("packaged"))
        await asyncio.wrap_future(work)

    async def close(self) -> None:
        """Finish what is under way, then close; call it in the event loop.

        Closing a connection while another thread executes a statement on it crashes the process:
        so the threads end first, and `_quick` runs in the event loop's own.
        """
        for threads in (self._threads, self._bulk_threads, self._ready_thread):
            await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)
        await asyncio.to_thread(self.flush_log)
        catalog, self._catalog = self._catalog, None
        if catalog is not None:
            catalog.database.close()

    # -- running ------------------------------------------------------------------------------

    async def in_thread(
        self,
        work: Callable[[], T],
        deadline: Deadline | None = None,
        threads: ThreadPoolExecutor | None = None,
    ) -> T:
        """Run blocking work; bounded, so that requests cannot pile up behind a dead database.

        Args:
            deadline: cancelled when nobody waits for the work any longer.

        Raises:
            BusyError: too many are waiting already.
        """
        if self._waiting >= self._max_waiting:
            raise BusyError("Too many requests are waiting.", next="Try again in a moment.")
        self._waiting += 1
        future = (threads or self._threads).submit(work)
        future.add_done_callback(self._done)
        try:
            return await asyncio.wrap_future(future)
        finally:
            if deadline is not None:
                deadline.cancel()

    def _done(self, _future: "Future[Any]") -> None:
        self._waiting -= 1

    @property
    def waiting(self) -> int:
        return self._waiting

    # -- resolving ----------------------------------------------------------------------------

    def resolve_now(self, name: str, options: ResolveOptions, caller: Caller) -> Resolution | None:
        """Resolve from SQLite, in the event loop: a look-up takes microseconds.

        `None` when it would take longer: the Hub, a write or a database server is needed.

        Raises:
            MdlError: the name is refused.
        """
        if self._catalog is None or not self.settings.on_sqlite:
            return None
        try:
            resolver = self._resolver(self._catalog, caller)
            return self._count(resolver.resolve(name, options))
        except NeedsThread:
            return None

    async def resolve(self, name: str, options: ResolveOptions, caller: Caller) -> Resolution:
        """Resolve one name, asking the Hub as the caller where necessary.

        Raises:
            MdlError: the name is refused, or the database does not respond.
        """
        deadline = Deadline(self._seconds)

        def work() -> Resolution:
            return self._resolver(self.catalog(), caller, deadline).resolve(name, options)

        return self._count(await self.in_thread(work, deadline))

    async def resolve_many(
        self, names: Sequence[str], options: ResolveOptions, caller: Caller
    ) -> list[Resolution | MdlError]:
        """Resolve many names in their order, in one thread; those it has no time for are errors.

        Raises:
            BusyError: it was not even begun in time.
            StoreError: the database does not respond.
        """
        seconds = self._seconds * _BULK_SHARE
        deadline = Deadline(seconds)
        found: list[Resolution | MdlError] = []

        def work() -> None:
            catalog = self.catalog()
            resolver = self._resolver(catalog, caller, deadline, self._known(catalog, names))
            for name in names:
                deadline.check()
                found.append(_one(resolver, name, options))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.in_thread(work, deadline, self._bulk_threads)
        complete = found[: len(names)]
        if not complete:
            raise BusyError("Too many requests are waiting.", next="Try again in a moment.")
        late = [_late(name, seconds) for name in names[len(complete) :]]
        return [
            each if isinstance(each, MdlError) else self._count(each) for each in complete + late
        ]

    async def family(self, name: str, caller: Caller) -> Family:
        """A model's family from any of its members, as the caller sees it.

        Raises:
            MdlError: there is no such repository, or nothing is known of it.
        """
        deadline = Deadline(self._seconds)

        def work() -> Family:
            return family(self._resolver(self.catalog(), caller, deadline), name)

        return await self.in_thread(work, deadline)

    async def names(self, text: str, limit: int) -> list[str]:
        """Names of the catalogue that begin with a text, in any casing."""
        start = text.lower()

        def work() -> list[str]:
            # The last text before all that begin with `start`.
            before = f"{start[:-1]}{chr(ord(start[-1]) - 1)}\U0010ffff"
            rows, _ = self.catalog().page(limit * 4, after=before)
            found = dict.fromkeys(row.name for row in rows if row.name.lower().startswith(start))
            return list(found)[:limit]

        return await self.in_thread(work)

    async def access(self, name: str, caller: Caller) -> Access:
        """The caller's access to a repository, and mirrors of it that are not gated."""

        deadline = Deadline(self._seconds)

        def work() -> Access:
            return self._resolver(self.catalog(), caller, deadline).access(name)

        return await self.in_thread(work, deadline)

    async def lock(self, names: Sequence[str], options: ResolveOptions, caller: Caller) -> str:
        """The text of a lock file for these names.

        Raises:
            MdlError: one of them cannot be locked.
        """

        deadline = Deadline(self._seconds)

        def work() -> tuple[list[Resolution], str]:
            from mdl.resolver import lock_entry, lock_text

            resolver = self._resolver(self.catalog(), caller, deadline)
            found = [resolver.resolve(name, options).checked() for name in names]
            return found, lock_text(lock_entry(resolver, each) for each in found)

        found, text = await self.in_thread(work, deadline, self._bulk_threads)
        for resolution in found:
            self._count(resolution)
        return text

    def _known(self, catalog: Catalog, names: Iterable[str]) -> Known:
        """What a database server has about some names, in one round trip."""
        if self.settings.on_sqlite:
            return None
        keys = {key for name in names if (key := _key(name))}
        return catalog.about_many(list(keys)) if keys else None

    def _resolver(
        self,
        catalog: Catalog,
        caller: Caller,
        deadline: Deadline | None = None,
        known: Known = None,
    ) -> CallerResolver:
        return CallerResolver(
            self.settings,
            catalog,
            self._cached,
            token=caller.hub_token,
            deadline=deadline,
            outage=self._outage,
            memory=self._memory,
            known=known,
        )

    # -- the resolution log ---------------------------------------------------------------------

    def _count(self, resolution: Resolution) -> Resolution:
        outcome = "as_named"
        if resolution.error is not None:
            outcome = "refused"
        elif resolution.substituted:
            outcome = "substituted"
            self._log.add(resolution)
        self._metrics.resolutions.labels(outcome).inc()
        return resolution

    def flush_log(self) -> None:
        """Write the resolution log's waiting rows; call it in a thread."""
        with self._flushing:
            if self._catalog is None:
                return
            if self._catalog.database.writable:
                self._log.write(self._catalog)
            else:
                self._log.drop()


def _read_ahead(path: str) -> None:
    """Read the file once from end to end: otherwise the first requests wait for single pages.

    The descriptor is left open: see `mdl.store.sqlite_connection.read_whole`.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        for _ in range(_READ_AHEAD >> 20):
            if not os.read(descriptor, 1 << 20):
                break


def _key(name: str) -> str | None:
    with contextlib.suppress(MdlError):  # resolving it raises the same, with the reason
        return parse_name(name, allow_local=False).key
    return None


def _late(name: str, seconds: float) -> MdlError:
    message = f"Not resolved within {seconds:.0f} s."
    next = "Ask again, for fewer names at a time."
    return BusyError(message, next=next, details={"requested": name[:200]})


def _one(resolver: CallerResolver, name: str, options: ResolveOptions) -> Resolution | MdlError:
    """One name's resolution or error; a database that does not respond fails the whole request."""
    try:
        return resolver.resolve(name, options)
    except StoreError:
        raise
    except MdlError as error:
        error.details.setdefault("requested", name[:200])
        return error
