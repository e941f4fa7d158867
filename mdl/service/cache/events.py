"""Server-sent events: they tell an open page that the cache changed."""

import asyncio
import json
from collections.abc import AsyncIterator

from mdl.errors import BusyError, MdlError
from mdl.service.cache.view import CacheService

_LOOK_EVERY = 2.0
_PING_EVERY = 15.0


class EventStreams:
    """The open streams, counted: each takes a connection for as long as a page is open."""

    def __init__(self, cache: CacheService, most: int = 100) -> None:
        self._cache = cache
        self._most = most
        self.open = 0
        self.closing = asyncio.Event()

    def check_capacity(self) -> None:
        """Refuse another stream where there are too many.

        Raises:
            BusyError: there are.
        """
        if self.open >= self._most:
            raise BusyError("Too many pages are open.", next="Reload this page to see changes.")

    async def follow(self) -> AsyncIterator[str]:
        """`cache` events with the new totals when the cache changes, and comments in between."""
        self.open += 1
        try:
            seen, quiet = "", 0.0
            yield "retry: 5000\n\n"
            while not self.closing.is_set():
                text = await self._changed(seen)
                if text:
                    seen, quiet = text[0], 0.0
                    yield f"event: cache\ndata: {text[1]}\n\n"
                elif quiet >= _PING_EVERY:
                    quiet = 0.0
                    yield ": ping\n\n"
                quiet += _LOOK_EVERY
                try:
                    await asyncio.wait_for(self.closing.wait(), _LOOK_EVERY)
                except TimeoutError:
                    continue
        finally:
            self.open -= 1

    async def _changed(self, seen: str) -> tuple[str, str] | None:
        try:
            state = await self._cache.state()
        except MdlError:
            return None  # the page's own request reports it
        if state.version == seen:
            return None
        return state.version, json.dumps(
            {"version": state.version, "totals": state.totals.to_json()}
        )
