"""Runs the service on uvicorn: where it listens, with which limits, and how it ends."""

import asyncio
import contextlib
import errno
import json
import logging
import signal
import socket
from typing import Any

import uvicorn

from mdl.errors import MdlError
from mdl.service.app import create_app
from mdl.service.config import ServiceConfig
from mdl.service.connection import protocol
from mdl.service.request_log import LogWriter
from mdl.service.state import Service
from mdl.settings import Settings

log = logging.getLogger("mdl.service")

_GRACE = 5  # seconds
_BACKLOG = 2048


def serve(settings: Settings, config: ServiceConfig, *, as_json: bool = False) -> None:
    """Listen and respond until SIGINT or SIGTERM.

    Raises:
        ConfigError: the address needs tokens or host names, or the tokens cannot be used.
        MdlError: the address cannot be listened on.
    """
    service = Service(settings, config)
    writer = LogWriter()
    writer.start(requests=config.log_requests)
    try:
        _raise_file_limit()
        listener = _listen(config)
        _announce(config, listener.getsockname()[1], as_json=as_json)
        _Server(uvicorn_config(service), service).run(sockets=[listener])
    finally:
        writer.close()


def _announce(config: ServiceConfig, port: int, *, as_json: bool) -> None:
    if not config.on_loopback and config.certificate is None:
        log.warning("Listening on %s without TLS: tokens travel unencrypted.", config.host)
    scheme = "https" if config.certificate else "http"
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"{scheme}://{host}:{port}/"
    print(json.dumps({"url": url}) if as_json else f"mdl serves on {url}", flush=True)


def uvicorn_config(service: Service) -> uvicorn.Config:
    """uvicorn with the service's limits."""
    config = service.config
    return uvicorn.Config(
        create_app(service),
        http=protocol(service),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=config.idle_seconds,
        timeout_graceful_shutdown=_GRACE,
        ssl_certfile=config.certificate,
        ssl_keyfile=config.key,
    )


class _Server(uvicorn.Server):
    """Ends event streams and a verification before uvicorn waits for them."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.streams.closing.set()
        self._service.cache.closing.set()  # a verification too would keep uvicorn waiting
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        # uvicorn raises the signal again after its end; a clean stop on SIGTERM is exit code 0.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _listen(config: ServiceConfig) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        # With the protocol named, asyncio sets TCP_NODELAY, as uvloop always does.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host.strip("[]"), config.port))
        listener.listen(_BACKLOG)  # before the address is announced: whoever reads it may connect
        listener.setblocking(False)
        return listener
    except OSError as error:
        raise MdlError(
            f"Cannot listen on {config.host}:{config.port}.",
            why=error.strerror or str(error),
            next="Is another `mdl serve` running? Choose another --port."
            if error.errno == errno.EADDRINUSE
            else "Give an address of this machine, as 127.0.0.1 or 0.0.0.0, and a port it allows.",
        ) from error


def _raise_file_limit() -> None:
    """Each connection takes a descriptor, also one that is refused politely."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
