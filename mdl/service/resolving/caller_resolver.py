"""The resolver as one caller of the service sees it: their Hub token, nobody else's knowledge."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mdl.errors import MdlError, OfflineError
from mdl.resolver import CacheView, Name, RepoInfo, Resolver
from mdl.settings import Settings
from mdl.store import Catalog, NameRecord, RepositoryRow

if TYPE_CHECKING:
    from mdl.resolver import HubApi

_DEAD_FOR = 10.0


class MustAsk(Exception):
    """Signal, never shown: this answer needs the Hub, a write or time, so it goes to a thread."""


class Outage:
    """For how long the Hub is taken for dead, so that not every caller waits to find out."""

    def __init__(self) -> None:
        self._until = 0.0
        self._error: OfflineError | None = None

    @property
    def error(self) -> OfflineError | None:
        return self._error if time.monotonic() < self._until else None

    def note(self, error: OfflineError) -> None:
        self._until, self._error = time.monotonic() + _DEAD_FOR, error


LiveFacts = dict[tuple[str, str | None], tuple[float, RepoInfo]]


class CallerMemory:
    """What each caller's token was told by the Hub within the last minute, apart by token.

    Without it every answer would cost the Hub a request. Tokens themselves are not in it.
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
                facts = {k: held for k, held in list(facts.items()) if held[0] > oldest}
                if len(facts) > self._FACTS:
                    facts = {}
                self._by_token[key] = facts
            return facts


class CallerResolver(Resolver):
    """Answers one caller over a catalogue that all share.

    Args:
        token: the caller's Hub token, or `None`; the server's own is never used.
        may_ask: whether the Hub may be asked and rows written; else `MustAsk` is raised.
        outage: what this process found out about the Hub's health.
        memory: what the Hub told it lately.
        known: what the catalogue was just found to hold about names, by their keys.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        cached: CacheView,
        *,
        token: str | None,
        may_ask: bool,
        outage: Outage,
        memory: CallerMemory,
        known: Mapping[str, NameRecord] | None = None,
    ) -> None:
        super().__init__(settings, cached, token=token or False, allow_local=False, catalog=catalog)
        self._facts = memory.of(token)
        self._may_ask = may_ask
        self._outage = outage
        self._dead = outage.error
        self._known = known or {}

    @property
    def hub(self) -> "HubApi":
        if not self._may_ask:
            raise MustAsk
        return super().hub

    def note_outage(self) -> None:
        """Tell the process when this request found the Hub dead."""
        if self._dead is not None and self._outage.error is None:
            self._outage.note(self._dead)

    def _look_up(self, key: str) -> NameRecord:
        return self._known.get(key) or super()._look_up(key)

    def _write_rows(self, rows: dict[str, RepositoryRow]) -> None:
        if not self._may_ask:
            raise MustAsk
        super()._write_rows(rows)

    def _prefetch(self, names: list[str]) -> None:
        """An owner's listing mixes what only this token sees with the rest: each name alone."""

    def _suggest(self, error: MdlError, name: Name) -> None:
        if not self._may_ask:
            raise MustAsk
        super()._suggest(error, name)
