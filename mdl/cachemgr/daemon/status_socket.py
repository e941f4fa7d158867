"""The daemon's unix socket: mode 0600, in $MDL_HOME, the service's paths and shapes.

`GET /v1/health`, `/v1/status` and `/v1/cache`; the standard library's HTTP server, because the
whole daemon has to fit into what FastAPI alone would take.
"""

import contextlib
import http.client
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from mdl.errors import MdlError
from mdl.version import __version__

_TIMEOUT = 10.0
_MOST_THREADS = 8
Route = Callable[[], dict[str, Any]]


class SocketServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers in threads of its own; `answers` maps a path to what makes its JSON."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path, routes: dict[str, Route]) -> None:
        self.path = path
        self.routes = routes
        self._slots = threading.BoundedSemaphore(_MOST_THREADS)
        path.unlink(missing_ok=True)  # the daemon's lock is held: nobody listens there
        mask = os.umask(0o177)
        try:
            with _address(path) as address:
                super().__init__(address, _Handler)
        finally:
            os.umask(mask)

    def start(self) -> None:
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 5.0}, daemon=True
        ).start()

    def close(self) -> None:
        """Stop answering. The listening thread ends with the process."""
        self.server_close()
        self.path.unlink(missing_ok=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is its own business."""


class _Handler(BaseHTTPRequestHandler):
    server: SocketServer
    timeout = _TIMEOUT
    server_version = "mdl"
    sys_version = ""

    def do_GET(self) -> None:
        route = self.server.routes.get(self.path)
        try:
            if route is None:
                self._send(404, {"error": {"code": "not_found", "message": "Nothing is here."}})
            else:
                self._send(200, route())
        except MdlError as error:
            self._send(503, {"error": error.to_json()})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "local"

    def log_message(self, *_: Any) -> None:
        """Nobody needs a line for each look at the status."""


def health() -> dict[str, Any]:
    return {"status": "ok", "version": __version__}


def ask_daemon(path: Path, target: str, timeout: float = 2.0) -> dict[str, Any]:
    """GET from a daemon's socket.

    Raises:
        OSError, ValueError: nobody listens, or what answers is no daemon.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        with _address(path) as address:
            connection.connect(address)
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: mdl\r\nConnection: close\r\n\r\n".encode()
        )
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            found = json.loads(response.read())
        except http.client.HTTPException as error:
            raise ValueError(str(error)) from error
        finally:
            response.close()
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name for the socket that fits into the 107 bytes a socket's address may have."""
    if len(os.fsencode(path)) < 100:
        yield os.fspath(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
