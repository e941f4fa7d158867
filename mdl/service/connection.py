"""uvicorn's HTTP connection, with the limits that must hold before a request is complete."""

import asyncio
import contextlib
import json
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from mdl.service.state import Service

_MOST_PIPELINED = 64
_LEAST_READ = 64 << 10  # bytes, in `read_seconds`
_BLANK_LINE = b"\r\n\r\n"


def _last_response(status: str, code: str, message: str, next: str, *headers: str) -> bytes:
    """A refusal after which the connection is closed, for what never becomes a request."""
    error = {"code": code, "message": message, "why": "", "next": next}
    body = json.dumps({"error": error})
    lines = (
        f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}",
        "connection: close", *headers,
    )  # fmt: skip
    return "\r\n".join((*lines, "", body)).encode()


_BUSY = _last_response(
    "503 Service Unavailable", "busy", "Too many connections.", "Try again in a moment.",
    "retry-after: 2",
)  # fmt: skip


class BoundedConnection(HttpToolsProtocol):
    """Limits how many connections are open, how large a head is, and how long a client may stall.

    uvicorn has no setting for these: its concurrency limit counts a connection only when a head
    is complete, and httptools collects heads of any size.
    """

    def __init__(self, service: "Service", **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits = service.config
        self._refused = service.metrics.refused_connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._running: Any = None  # the request that is being responded to
        self._in_head = self._began = False
        self._arrived = 0  # bytes of the head that is arriving
        self._parsed = 0  # bytes of the current request's target, headers and trailers
        self._unparsed = 0  # bytes received since the parser last reported anything

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refused.inc()
            transport.write(_BUSY)
            transport.close()
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._read_timer):
            if timer is not None:
                timer.cancel()
        self.pipeline.clear()
        if self._running is not None:  # uvicorn marks the last of several pipelined requests only
            self._running.disconnected = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._began = False
        self._unparsed += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            new = data.rpartition(_BLANK_LINE)[2] if self._began else data
            self._arrived = len(new) + (0 if self._began else self._arrived)
        most = self._limits.max_headers
        if self._unparsed > most or (self._in_head and self._arrived > most):
            self.send_400_response("The head of the request is too large.")
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        next = "Send a request as HTTP/1.1 defines it."
        self.transport.write(_last_response("400 Bad Request", "usage", msg, next))
        self.transport.close()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MOST_PIPELINED:  # all of a segment is parsed, whatever it holds
            raise httptools.HttpParserError("too many requests were sent without waiting")
        self._in_head = self._began = True
        self._parsed = self._unparsed = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if not self.url.startswith(b"/"):
            self._from_absolute(httptools.parse_url(self.url))
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        if self.parser.should_upgrade():  # its body is not parsed: what follows is no request
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # once what is written has been read
            self._expect_reading()

    def _expect_reading(self) -> None:
        """Abort unless the client goes on reading what is waiting for it."""
        if self._read_timer is not None:
            self._read_timer.cancel()
        waiting = self.transport.get_write_buffer_size()
        if waiting:
            self._read_timer = self.loop.call_later(
                self._limits.read_seconds, self._check_reading, waiting
            )

    def _check_reading(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < min(before, _LEAST_READ):
            self._abort()
        else:
            self._expect_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Abort, because closing would wait for a client that does not read."""
        self._abort()

    def _abort(self) -> None:
        """Close with a reset: otherwise the system keeps what the client has not read."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError), socket.fromfd(descriptor, -1, -1) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _from_absolute(self, target: Any) -> None:
        """What proxies send: `GET http://host/path`. Its host counts: Host has to say the same."""
        given = [value.lower() for name, value in self.headers if name == b"host"]
        port = b"" if target.port is None else b":%d" % target.port
        if target.host is None or given != [target.host.lower() + port]:
            raise httptools.HttpParserError("the target and the Host header differ")
        query = b"" if target.query is None else b"?" + target.query
        self.url = (target.path or b"/") + query

    def _count(self, size: int) -> None:
        self._parsed += size
        self._unparsed = 0
        if self._parsed > self._limits.max_headers:
            raise httptools.HttpParserError("the head is too large")

    def _await_head(self) -> None:
        seconds = self._limits.head_seconds
        self._head_timer = self.loop.call_later(seconds, self._abort)


def protocol(service: "Service") -> Any:
    """What uvicorn calls to make a connection of this service."""
    return partial(BoundedConnection, service)
