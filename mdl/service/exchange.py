"""One request and its answer, on the level of ASGI messages."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from mdl.service import http_errors as errors

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# On every answer; each header costs a few microseconds, so JSON carries no more than it needs.
NOSNIFF = (b"x-content-type-options", b"nosniff")
_JSON = (b"content-type", b"application/json")


class Refused(HTTPException):
    """An answer before any route: a status, an error code, a sentence.

    An HTTPException, because FastAPI makes 400 of anything else raised while a body is read.
    """

    def __init__(self, status: int, code: str, message: str, next: str = "") -> None:
        super().__init__(status, message)
        self.status = status
        self.body = {"error": {"code": code, "message": message, "why": "", "next": next}}


class Told:
    """What the log and the metrics tell of one request."""

    __slots__ = ("about", "answer", "request_id", "role", "status")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.status = 0
        self.role = "-"
        self.about = ""
        self.answer = ""


class Exchange(Told):
    """One request's answer as it goes out: its status for the log, headers for the caller."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        super().__init__(request_id)
        self._scope = scope
        self._send = send
        self._finished = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.request_id.encode()),
                NOSNIFF,
            ]
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            self._finished = True
        await self._send(message)

    async def send_json(self, status: int, body: bytes, extra: tuple[Any, ...] = ()) -> None:
        self.status = status
        headers = [
            _JSON,
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.request_id.encode()),
            NOSNIFF,
            *((key.lower().encode(), value.encode())
              for key, value in errors.headers_of(status).items()),
            *extra,
        ]  # fmt: skip
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        self._finished = True

    async def refuse(self, status: int, body: dict[str, Any]) -> None:
        """Answer with an error, unless an answer has begun: then only its end can tell."""
        if self.status:
            if not self._finished:
                raise ConnectionAbortedError(f"request {self.request_id} ended half-way")
            return
        extra = []
        if status == 401:
            extra += [(b"www-authenticate", scheme + b' realm="mdl (password: a token)"')
                      for scheme in (b"Bearer", b"Basic")]  # fmt: skip
        if status == 413:
            extra.append((b"connection", b"close"))
        body["request_id"] = self.request_id
        await self.send_json(status, json.dumps(body).encode(), tuple(extra))

    def route(self) -> str:
        """The route's template: a label that callers cannot make up."""
        if self._scope["path"] == "/v1/resolve":
            return "/v1/resolve"
        route = self._scope.get("route")
        return getattr(route, "path", None) or "other"
