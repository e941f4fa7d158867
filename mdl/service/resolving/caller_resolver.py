"""The resolver for one caller of the service: with their Hub token, and with what it may see."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mdl.errors import HubFaultError, MdlError, OfflineError
from mdl.resolver import CacheView, Name, RepoInfo, Resolver
from mdl.service.resolving.deadline import Deadline
from mdl.settings import Settings
from mdl.store import Catalog, NameRecord, RepositoryRow

if TYPE_CHECKING:
    from mdl.resolver import HubApi

_DEAD_FOR = 10.0


class NeedsThread(Exception):
    """A signal, never shown: resolving needs the Hub or a write, so it has to run in a thread."""


class Outage:
    """Remembers for some seconds that the Hub is down, so that not every caller waits for it.

    It is down when it cannot be reached, or fails for several repositories within these seconds.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._error: OfflineError | None = None
        self._failing: dict[str, float] = {}  # a name's key → when
        self._lock = threading.Lock()

    @property
    def error(self) -> OfflineError | None:
        return self._error if time.monotonic() < self._until else None

    def note(self, error: OfflineError, key: str) -> None:
        now = time.monotonic()
        with self._lock:
            if isinstance(error, HubFaultError):
                recent = {k: at for k, at in self._failing.items() if now - at < _DEAD_FOR}
                self._failing = {**recent, key: now}
                if len(self._failing) < Resolver.FAULTS_OF_AN_OUTAGE:
                    return
            if self._error is not error:
                self._until, self._error = now + _DEAD_FOR, error


LiveFacts = dict[tuple[str, str | None], tuple[float, RepoInfo]]


class CallerMemory:
    """What the Hub said to each token within the last minute; without it every request asks again.

    Tokens are kept as hashes.
    """

    _TOKENS, _FACTS, _LIFE = 200, 20_000, 60.0

    def __init__(self) -> None:
        self._by_token: OrderedDict[bytes, LiveFacts] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, token: str | None) -> LiveFacts:
        key = hashlib.sha256((token or "").encode()).digest()
        with self._lock:
            facts = self._by_token.setdefault(key, {})
            self._by_token.move_to_end(key)
            while len(self._by_token) > self._TOKENS:
                self._by_token.popitem(last=False)
            if len(facts) > self._FACTS:
                oldest = time.monotonic() - self._LIFE
                facts = {key: each for key, each in list(facts.items()) if each[0] > oldest}
                if len(facts) > self._FACTS:
                    facts = {}
                self._by_token[key] = facts
            return facts


class CallerResolver(Resolver):
    """Resolves for one caller over a catalogue that all share.

    Args:
        token: the caller's Hub token, or `None`; the server's own is never used.
        deadline: until when the Hub may be asked; without one, `NeedsThread` is raised where the
            Hub has to be asked or a row written.
        outage: whether this process found the Hub down.
        memory: what the Hub said lately.
        known: records already read from the catalogue, by the names' keys.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        cached: CacheView,
        *,
        token: str | None,
        deadline: Deadline | None,
        outage: Outage,
        memory: CallerMemory,
        known: Mapping[str, NameRecord] | None = None,
    ) -> None:
        super().__init__(settings, cached, token=token or False, allow_local=False, catalog=catalog)
        self._facts = memory.of(token)
        self._deadline = deadline
        self._outage = outage
        self._dead = outage.error
        self._known = known or {}

    @property
    def hub(self) -> "HubApi":
        if self._deadline is None:
            raise NeedsThread
        self._deadline.check()
        return super().hub

    def _note_fault(self, error: OfflineError, key: str) -> None:
        self._outage.note(error, key)
        self._dead = self._outage.error

    def _look_up(self, key: str) -> NameRecord:
        return self._known.get(key) or super()._look_up(key)

    def _write_rows(self, rows: dict[str, RepositoryRow]) -> None:
        if self._deadline is None:
            raise NeedsThread
        super()._write_rows(rows)

    def _prefetch(self, names: list[str]) -> None:
        """Ask for each name alone: an owner's listing mixes in what only this token sees."""

    def _suggest(self, error: MdlError, name: Name) -> None:
        if self._deadline is None:
            raise NeedsThread
        super()._suggest(error, name)
