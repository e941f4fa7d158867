"""Server-sent events: tells an open page that the cache changed."""

import asyncio
import json
from collections.abc import AsyncIterator

from mdl.errors import BusyError, MdlError
from mdl.service.cache.view import CacheService

_LOOK_EVERY = 2.0
_PING_EVERY = 15.0


class Streams:
    """Open streams, counted: each holds a connection for as long as a page is open."""

    def __init__(self, keeper: CacheService, most: int = 100) -> None:
        self._keeper = keeper
        self._most = most
        self.open = 0
        self.closing = asyncio.Event()

    def check_room(self) -> None:
        """
        Raises:
            BusyError: too many pages watch already.
        """
        if self.open >= self._most:
            raise BusyError("Too many pages are open.", next="Reload this one now and then.")

    async def follow(self) -> AsyncIterator[str]:
        """`cache` events with the new totals whenever the cache changes, comments in between."""
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
                    yield ": here\n\n"
                quiet += _LOOK_EVERY
                try:
                    await asyncio.wait_for(self.closing.wait(), _LOOK_EVERY)
                except TimeoutError:
                    continue
        finally:
            self.open -= 1

    async def _changed(self, seen: str) -> tuple[str, str] | None:
        try:
            view = await self._keeper.view()
        except MdlError:
            return None  # the page's own request for the cache says what is wrong
        if view.version == seen:
            return None
        return view.version, json.dumps({"version": view.version, "totals": view.totals.to_json()})
