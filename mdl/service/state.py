"""What one service process shares between its requests. Every route knows it; it knows no route."""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator

from mdl.errors import MdlError
from mdl.hub_server import HubServer
from mdl.service.auth import Tokens
from mdl.service.cache import CacheService, EventStreams
from mdl.service.config import ServiceConfig
from mdl.service.metrics import Metrics
from mdl.service.resolving import ResolverPool
from mdl.settings import Settings

log = logging.getLogger("mdl.service")

_FLUSH_EVERY = 1.0  # seconds


class Service:
    """Tokens, resolver, cache and metrics of one process. Nothing of it has to outlive it.

    Raises:
        ConfigError: the address needs tokens or host names, or the tokens cannot be used.
    """

    def __init__(self, settings: Settings, config: ServiceConfig) -> None:
        self.settings = settings
        self.config = config
        self.tokens = Tokens(config.tokens_file, config.tokens)
        config.check(has_tokens=len(self.tokens) > 0)
        self.metrics = Metrics()
        self.cache = CacheService(settings)
        self.resolver = ResolverPool(settings, config, self.cache, self.metrics)
        self.streams = EventStreams(self.cache)
        self.hub: HubServer | None = None
        if config.hub is not None:
            self.hub = HubServer(settings, config.hub, self.metrics.registry)
        self._add_gauges()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the database and the cache, write the resolution log once a second, close."""
        await asyncio.to_thread(_import_hub_client)
        for opening in (self.resolver.check(), self.cache.state()):
            try:
                await opening
            except MdlError as error:
                # /v1/ready reports it, and the next request tries again.
                log.error("Started, but not ready: %s", error)
        writing = asyncio.create_task(self._write_resolutions())
        try:
            yield
        finally:
            writing.cancel()
            await self.resolver.close()
            self.cache.close()
            if self.hub is not None:
                await asyncio.to_thread(self.hub.close)

    async def _write_resolutions(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_EVERY)
            await asyncio.to_thread(self.resolver.flush_log)

    def _add_gauges(self) -> None:
        def of_cache(field: str) -> float:
            last = self.cache.last
            return math.nan if last is None else float(getattr(last.totals, field))

        gauge = self.metrics.gauge
        gauge("mdl_waiting_for_a_thread", "Requests waiting for a thread.",
              lambda: self.resolver.waiting)  # fmt: skip
        gauge("mdl_event_streams", "Open event streams.", lambda: self.streams.open)
        gauge("mdl_cache_repos", "Repositories in the cache.", lambda: of_cache("repos"))
        gauge("mdl_cache_bytes", "Size of the cache on disk.", lambda: of_cache("size_on_disk"))
        gauge("mdl_cache_trash_bytes", "Size of the trash.", lambda: of_cache("trash_size"))


def _import_hub_client() -> None:
    """It takes a second or more, which the first caller would wait for."""
    from mdl.resolver import HubApi  # noqa: F401
