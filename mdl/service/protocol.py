"""HTTP on a connection: uvicorn's protocol, with bounds, and a straight way for the commonest ask.

Most requests are `GET /v1/resolve` in one piece: a head of a few plain lines and no body, on a
connection where nothing else is under way. What is exactly that, and can be answered from what is
stored, is answered where it arrives. Everything else, the slightest oddity included, goes through
h11 and the routes, which see the very same bytes.
"""

import asyncio
import re
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from mdl.service.app import Service

_FULL_BODY = (
    b'{"error": {"code": "busy", "message": "Too many connections.", "why": "",'
    b' "next": "Try again in a moment."}}'
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 2\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(_FULL_BODY)
)
_LONGEST = 4096
# Visible ASCII and blanks alone, one line a header; no part of it can be read in two ways.
_PLAIN = re.compile(
    rb"GET /v1/resolve\?([!-~]*) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[\t -~]*\r\n)+)\r\n"
)
# Headers that change what a connection or a body is, and so are h11's to judge.
_NOT_PLAIN = frozenset(
    (b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer",
     b"http2-settings")
)  # fmt: skip
_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


class Ask(NamedTuple):
    """A plain request: its query string, and its headers by lower-case name."""

    query: bytes
    headers: dict[bytes, bytes]


def read_plain(data: bytes) -> Ask | None:
    """The plain request that `data` is, all of it; `None` for anything else."""
    if len(data) > _LONGEST:
        return None
    match = _PLAIN.fullmatch(data)
    if match is None:
        return None
    headers: dict[bytes, bytes] = {}
    for line in match[2].split(b"\r\n")[:-1]:
        key, _, value = line.partition(b":")
        name = key.lower()
        # Given twice, which of them counts is not for this function to say.
        if name in headers or name in _NOT_PLAIN:
            return None
        headers[name] = value.strip()
    if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    return Ask(match[1], headers)


def status_line(status: int) -> bytes:
    return _STATUS_LINES[status]


class OneSegment:
    """A transport that sends an answer's head together with what follows it.

    uvicorn writes head and body apart: two system calls and two packets an answer.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):
            self._flush()
            self._head = data
        elif self._head:
            data, self._head = self._head + data, b""
            self._transport.write(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Bounded(H11Protocol):
    """Limits connections and the time a head may take; answers plain requests at once.

    Args:
        service: what answers; the rest is uvicorn's.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _refused = False
    _raw: asyncio.Transport

    def __init__(self, service: "Service", **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._service = service

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvicorn serves TCP and Unix sockets, whose transports all write; uvloop's are of no class.
        self._raw = cast(asyncio.Transport, transport)
        super().connection_made(cast(asyncio.Transport, OneSegment(self._raw)))
        if len(self.connections) > self._service.config.max_connections:
            self._refused = True
            self._service.metrics.refused_connections += 1
            self._raw.write(_FULL + _FULL_BODY)
            self._raw.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if data.startswith(b"GET /v1/resolve?") and self._is_idle() and self._answer(data):
            return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._cancel()
        elif self._head_timer is None and (before is None or before.response_complete):
            self._await_head()  # the beginning of a head: the rest has to come in time

    def _is_idle(self) -> bool:
        """Nothing is under way on this connection and nothing waits in it."""
        conn = self.conn
        return (
            conn.our_state is h11.IDLE
            and conn.their_state is h11.IDLE
            and not conn.trailing_data[0]
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and not self._raw.is_closing()
        )

    def _answer(self, data: bytes) -> bool:
        ask = read_plain(data)
        if ask is None:
            return False
        client = self.client[0] if self.client else "-"
        answer = self._service.guard.at_once(ask, client, self.server_state.default_headers)
        if answer is None:
            return False
        self._cancel()
        self._raw.write(answer)
        self.on_response_complete()
        return True

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._service.config.head_seconds, self._too_slow)

    def _cancel(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.abort()


def protocol(service: "Service") -> Any:
    """What makes uvicorn's HTTP protocols for this service."""
    return partial(Bounded, service)
