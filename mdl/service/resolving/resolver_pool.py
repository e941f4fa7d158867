"""Names in, resolutions out: what the routes ask, in the event loop or in a thread."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from mdl.errors import BusyError, MdlError, StoreError
from mdl.resolver import Access, CacheView, Resolution, ResolveOptions, parse_name
from mdl.service.config import ServiceConfig
from mdl.service.metrics import Metrics
from mdl.service.resolving.batching import Batcher
from mdl.service.resolving.caller_resolver import CallerMemory, CallerResolver, MustAsk, Outage
from mdl.settings import Settings
from mdl.store import Catalog, NameRecord, open_catalog

log = logging.getLogger("mdl.service")
T = TypeVar("T")
Known = Mapping[str, NameRecord] | None

_REOPEN_AFTER = 1.0
_READ_AHEAD = 1 << 31  # bytes of a catalogue at most
_LOG_AGAIN_AFTER = 3600.0
_LOG_KEYS = 50_000
_LOG_WAITING = 20_000


class Caller(NamedTuple):
    """Whose request this is.

    Attributes:
        role: what this service's token allows (see `auth.ROLES`).
        hub_token: the caller's own Hub token; lives as long as the request.
    """

    role: str
    hub_token: str | None = None


class NameRequest(NamedTuple):
    """One name of one request."""

    name: str
    options: ResolveOptions
    caller: Caller


class ResolverPool:
    """The resolver behind the service. All its state can be lost: the database is the truth."""

    def __init__(
        self, settings: Settings, config: ServiceConfig, cached: CacheView, metrics: Metrics
    ) -> None:
        self.settings = settings
        self._cached = cached
        self._metrics = metrics
        self._outage = Outage()
        self._memory = CallerMemory()
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix="mdl-answers")
        self._waiting = 0
        self._max_waiting = config.max_waiting
        self._together = Batcher[NameRequest, Resolution](self._stored, waiting=config.max_waiting)
        self._catalog: Catalog | None = None
        self._opening = threading.Lock()
        self._failed: tuple[float, MdlError] | None = None
        self._anonymous: CallerResolver | None = None
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

    def ready(self) -> None:
        """Whether names can be answered: one look-up.

        Raises:
            StoreError, BusyError: no.
        """
        self.catalog().version("packaged")

    async def close(self) -> None:
        """Finish what is being answered and written, then close; call it in the event loop.

        A connection that is closed while another thread is in a statement of it is no error but
        the end of the process: the threads end first, and `quick` runs in this very thread.
        """
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        await asyncio.to_thread(self.flush_log)
        catalog, self._catalog = self._catalog, None
        if catalog is not None:
            catalog.database.close()

    # -- running ------------------------------------------------------------------------------

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work; bounded, so that a dead database cannot pile requests up.

        Raises:
            BusyError: too many wait already.
        """
        if self._waiting >= self._max_waiting:
            raise BusyError("Too many requests are waiting.", next="Try again in a moment.")
        self._waiting += 1
        future = self._threads.submit(work)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def _done(self, _future: "Future[Any]") -> None:
        self._waiting -= 1

    @property
    def waiting(self) -> int:
        return self._waiting + self._together.waiting

    # -- answering ----------------------------------------------------------------------------

    def quick(self, name: str, options: ResolveOptions, caller: Caller) -> Resolution:
        """Answer from what is stored, in the event loop: a SQLite look-up takes microseconds.

        Raises:
            MustAsk: that needs more; `resolve` does it in a thread.
            MdlError: the name is refused.
        """
        catalog = self._catalog
        if catalog is None or not self.settings.on_sqlite:
            raise MustAsk
        # Offline, nothing about an anonymous caller's resolver changes between two requests.
        if self.settings.offline and caller.hub_token is None:
            if self._anonymous is None:
                self._anonymous = self._resolver(catalog, caller, False)
            return self._keep(self._anonymous.resolve(name, options))
        return self._keep(self._resolver(catalog, caller, False).resolve(name, options))

    async def resolve(self, name: str, options: ResolveOptions, caller: Caller) -> Resolution:
        """Answer one name, asking the Hub as the caller where it must.

        Raises:
            MdlError: the name is refused, the database does not answer.
        """
        try:
            if self.settings.on_sqlite:
                return self.quick(name, options, caller)
            return self._keep(await self._together(NameRequest(name, options, caller)))
        except MustAsk:
            return self._keep(await self.in_thread(lambda: self._asked(name, options, caller)))

    async def resolve_many(
        self, names: Sequence[str], options: ResolveOptions, caller: Caller
    ) -> list[Resolution | MdlError]:
        """Answer many names in order; the slow ones share one thread."""

        def work() -> list[Resolution | MdlError]:
            catalog = self.catalog()
            resolver = self._resolver(catalog, caller, True, self._known(catalog, names))
            try:
                return [_one(resolver, name, options) for name in names]
            finally:
                resolver.note_outage()

        answers = await self.in_thread(work)
        return [a if isinstance(a, MdlError) else self._keep(a) for a in answers]

    async def access(self, name: str, caller: Caller) -> Access:
        """The caller's access to a repository, and mirrors of it that are not gated."""

        def work() -> Access:
            resolver = self._resolver(self.catalog(), caller, True)
            found = resolver.access(name)
            resolver.note_outage()
            return found

        return await self.in_thread(work)

    async def lock(self, names: Sequence[str], options: ResolveOptions, caller: Caller) -> str:
        """The text of a lock file for these names.

        Raises:
            MdlError: one of them cannot be locked; none is then.
        """

        def work() -> tuple[list[Resolution], str]:
            from mdl.resolver import lock_entry, lock_text

            resolver = self._resolver(self.catalog(), caller, True)
            answers = [resolver.resolve(name, options).checked() for name in names]
            return answers, lock_text(lock_entry(resolver, answer) for answer in answers)

        answers, text = await self.in_thread(work)
        for answer in answers:
            self._keep(answer)
        return text

    async def _stored(self, asks: Sequence[NameRequest]) -> list[Resolution | Exception]:
        """Answers from what a database server has stored, `MustAsk` where that is not enough."""

        def work() -> list[Resolution | Exception]:
            catalog = self.catalog()
            known = self._known(catalog, [ask.name for ask in asks])
            return [one(ask, catalog, known) for ask in asks]

        def one(ask: NameRequest, catalog: Catalog, known: Known) -> Resolution | Exception:
            try:
                return _one(
                    self._resolver(catalog, ask.caller, False, known), ask.name, ask.options
                )
            except MustAsk as signal:
                return signal

        return await self.in_thread(work)

    def _known(self, catalog: Catalog, names: Iterable[str]) -> Known:
        """What a database server holds of some names, by one way there and back."""
        if self.settings.on_sqlite:
            return None
        keys = {key for name in names if (key := _key(name))}
        return catalog.about_many(list(keys)) if keys else None

    def _asked(self, name: str, options: ResolveOptions, caller: Caller) -> Resolution:
        resolver = self._resolver(self.catalog(), caller, True)
        try:
            return resolver.resolve(name, options)
        finally:
            resolver.note_outage()

    def _resolver(
        self,
        catalog: Catalog,
        caller: Caller,
        may_ask: bool,
        known: Known = None,
    ) -> CallerResolver:
        return CallerResolver(
            self.settings,
            catalog,
            self._cached,
            token=caller.hub_token,
            may_ask=may_ask,
            outage=self._outage,
            memory=self._memory,
            known=known,
        )

    # -- the resolution log ---------------------------------------------------------------------

    def _keep(self, answer: Resolution) -> Resolution:
        outcome = outcome_of(answer)
        self._metrics.answers[outcome] += 1
        if outcome == "substituted":
            self._log.add(answer)
        return answer

    def flush_log(self) -> None:
        """Write what waits into the resolution log, one thread at a time; call it in one."""
        with self._flushing:
            if self._catalog is None:
                return
            if self._catalog.database.writable:
                self._log.write(self._catalog)
            else:
                self._log.drop()


def outcome_of(answer: Resolution) -> str:
    """What the metrics call it: `refused`, `substituted` or `as_named`."""
    if answer.error is not None:
        return "refused"
    return "substituted" if answer.substituted else "as_named"


def _read_ahead(path: str) -> None:
    """Read the file once, in a piece: page by page, the first answers would wait for the disk.

    The descriptor is left open: see `mdl.store.sqlite_connection.read_whole`.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        for _ in range(_READ_AHEAD >> 20):
            if not os.read(descriptor, 1 << 20):
                break


def _key(name: str) -> str | None:
    with contextlib.suppress(MdlError):  # refused when it is resolved, with the reason
        return parse_name(name, allow_local=False).key
    return None


def _one(resolver: CallerResolver, name: str, options: ResolveOptions) -> Resolution | MdlError:
    """One name's answer or refusal; a database that is away fails the whole request."""
    try:
        return resolver.resolve(name, options)
    except StoreError:
        raise
    except MdlError as error:
        error.details.setdefault("requested", name[:200])
        return error


class ResolutionLog:
    """Substitutions on their way into the resolution log: in batches, each once an hour."""

    _FIELDS = ("repo_id", "commit", "substituted", "rule", "source", "source_version")

    def __init__(self) -> None:
        self._seen: OrderedDict[int, float] = OrderedDict()  # an answer's hash → when
        # As rows: the whole answers, with their traces, would be held until they are written.
        self._waiting: list[tuple[float, str, str, dict[str, Any]]] = []
        self._lock = threading.Lock()

    def add(self, answer: Resolution) -> None:
        key = hash((answer.requested, answer.format, answer.repo_id, answer.commit))
        now = time.time()
        with self._lock:
            if now - self._seen.get(key, 0.0) < _LOG_AGAIN_AFTER:
                return
            self._seen[key] = now
            if len(self._seen) > _LOG_KEYS:
                self._seen.popitem(last=False)
            row = {name: getattr(answer, name) for name in self._FIELDS}
            self._waiting.append((now, answer.requested, answer.format, row))

    def drop(self) -> None:
        """Where nothing can be written, nothing waits for it."""
        with self._lock:
            self._waiting = []

    def write(self, catalog: Catalog) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            catalog.log_many("service", batch)
        except MdlError as error:
            with self._lock:
                kept = batch + self._waiting
                self._waiting = kept[-_LOG_WAITING:]
            lost = len(kept) - len(self._waiting)
            log.error("The resolution log cannot be written (%d lost): %s", lost, error.message)
