"""uvicorn, listening: where, with which limits, and how an end looks."""

import asyncio
import contextlib
import errno
import gc
import json
import logging
import signal
import socket
from typing import Any

import uvicorn

from mdl.errors import MdlError
from mdl.service.app import Service
from mdl.service.config import ServiceConfig
from mdl.service.protocol import protocol
from mdl.service.request_log import LogHandler, RequestLog
from mdl.settings import Settings

log = logging.getLogger("mdl.service")

_GRACE = 5
_BACKLOG = 2048


def serve(settings: Settings, config: ServiceConfig, *, as_json: bool = False) -> None:
    """Listen and answer until SIGINT or SIGTERM.

    Raises:
        ConfigError: the address needs tokens or names, the tokens cannot be used.
        MdlError: the address cannot be listened on.
    """
    service = Service(settings, config)
    _log_through(service.guard.log)
    try:
        _serve(service, as_json=as_json)
    finally:
        service.guard.log.close()


def _serve(service: Service, *, as_json: bool) -> None:
    config = service.config
    _raise_file_limit()
    listener = _listen(config)
    port = listener.getsockname()[1]
    if not config.on_loopback and config.certificate is None:
        log.warning("Listening on %s without TLS: tokens travel readable.", config.host)
    scheme = "https" if config.certificate else "http"
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"{scheme}://{host}:{port}/"
    print(json.dumps({"url": url}) if as_json else f"mdl serves on {url}", flush=True)
    # What was imported stays: the collector need not walk it again for every few requests.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    server = _Server(_uvicorn_config(service), service)
    server.run(sockets=[listener])


def _uvicorn_config(service: Service) -> uvicorn.Config:
    config = service.config
    return uvicorn.Config(
        service.guard,
        http=protocol(service),
        ws="none",
        lifespan="on",
        loop="asyncio",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=config.idle_seconds,
        timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=config.max_headers,
        ssl_certfile=config.certificate,
        ssl_keyfile=config.key,
    )


class _Server(uvicorn.Server):
    """Tells open event streams to end before uvicorn waits for them."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.streams.closing.set()
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
        # With the protocol named, asyncio sets TCP_NODELAY; without, every answer waits 40 ms for
        # the client's delayed acknowledgement of its head.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host.strip("[]"), config.port))
        listener.listen(_BACKLOG)  # before it is announced: whoever reads that may connect
        listener.setblocking(False)
        return listener
    except OSError as error:
        raise MdlError(
            f"{config.host}:{config.port} cannot be listened on.",
            why=error.strerror or str(error),
            next="Is another `mdl serve` running? Choose another --port."
            if error.errno == errno.EADDRINUSE
            else "Give an address of this machine, as 127.0.0.1 or 0.0.0.0, and a port it allows.",
        ) from error


def _log_through(lines: RequestLog) -> None:
    """Warnings and errors of ours and uvicorn's as lines on standard error."""
    logging.basicConfig(
        handlers=[LogHandler(lines)],
        level=logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("mdl.service").setLevel(logging.INFO)


def _raise_file_limit() -> None:
    """Connections are descriptors; refusing one politely takes one too."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
