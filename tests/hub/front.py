"""`mdl serve --hub` between a loopback Hub and its clients, in a process of its own.

The processes are forked from one that has imported everything, so that each test can have its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import uvicorn

from mdl.hub_server import HubConfig
from mdl.resolver import HubApi  # noqa: F401
from mdl.service.config import ServiceConfig
from mdl.service.server import uvicorn_config
from mdl.service.state import Service
from mdl.settings import Settings
from tests.hub.hub import LoopbackHub

_context = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Start the process that the others are forked from, in the environment of this moment."""
    _context.set_forkserver_preload([__name__])
    forkserver.ensure_running()


@contextlib.contextmanager
def mdl_in_front(hub: LoopbackHub, home: Path) -> Iterator[None]:
    """Within: `hub.endpoint` is a service whose Hub is `hub`."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        process = _context.Process(target=_serve, args=(hub.address, home, listener))
        process.start()
        hub.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield
    finally:
        process.kill()
        process.join()
        hub.endpoint = hub.address


def _serve(address: str, home: Path, listener: socket.socket) -> None:
    log = os.open(home / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    settings = Settings(home=home / "mdl", cache_root=home / "hub", endpoint=address)
    service = Service(settings, ServiceConfig(hub=HubConfig(), log_requests=False))
    uvicorn.Server(uvicorn_config(service)).run(sockets=[listener])
