"""What stands before every route: who may speak, how much, and for how long.

One ASGI callable instead of a stack of middlewares: each layer of those costs as much as an answer
from the catalogue. It answers the commonest request, one name from what is stored, itself.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Iterable
from typing import Any

from mdl.errors import MdlError
from mdl.resolver import Resolution
from mdl.service import http_errors as errors
from mdl.service.auth import Tokens, may
from mdl.service.config import ServiceConfig
from mdl.service.exchange import (
    NOSNIFF,
    App,
    Exchange,
    Message,
    Receive,
    Refused,
    Scope,
    Send,
    Told,
)
from mdl.service.hot import HotAnswer, HotAnswers
from mdl.service.metrics import Metrics
from mdl.service.protocol import Ask, status_line
from mdl.service.request_log import RequestLog
from mdl.service.resolving import Caller, MustAsk, ResolverPool, answer_bytes, outcome_of
from mdl.service.resolving import query as resolve_query

log = logging.getLogger("mdl.service")

OPEN = frozenset({"/v1/health", "/v1/ready"})
# An event stream has no end; a change and a verification take as long as the bytes they read.
UNBOUNDED = frozenset({"/v1/events", "/v1/cache/actions", "/v1/cache/verify"})
# The one route that takes a file as it is.
IMPORT = "/v1/catalog/import"
_FILE_KINDS = frozenset({b"application/toml", b"text/csv"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HUB_TOKEN = re.compile(rb"[A-Za-z0-9._~+/=-]{1,256}")
_WANTED = frozenset(
    (b"host", b"authorization", b"x-request-id", b"x-hub-token", b"content-length",
     b"content-type", b"origin")
)  # fmt: skip


_JSON_HEAD = (
    b"content-type: application/json\r\ncontent-length: %%d\r\nx-request-id: %%b\r\n%b: %b\r\n\r\n"
    % NOSNIFF
)


class Guard:
    """The ASGI application that uvicorn runs.

    Args:
        app: the routes.
    """

    def __init__(
        self,
        app: App,
        config: ServiceConfig,
        tokens: Tokens,
        answers: ResolverPool,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._config = config
        self._tokens = tokens
        self._answers = answers
        self._metrics = metrics
        self.log = RequestLog(enabled=config.log_requests)
        self._hot = HotAnswers()
        self._hosts = config.host_names
        self._prefix = os.urandom(4).hex()
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":  # is a GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
        headers = {key: value for key, value in scope["headers"] if key in _WANTED}
        exchange = Exchange(scope, send, self._request_id(headers.get(b"x-request-id")))
        self._metrics.in_flight += 1
        try:
            await self._answer(scope, headers, receive, exchange)
        except Refused as refusal:
            await exchange.refuse(refusal.status, refusal.body)
        except MdlError as error:
            status = errors.status_of(error)
            if status >= 500:
                log.error("%s %s", exchange.request_id, error)
            inside = exchange.role == "admin"
            await exchange.refuse(status, errors.body_of(error, inside=inside))
        except TimeoutError:
            await exchange.refuse(503, _slow(self._config.request_seconds))
        except Exception:
            log.exception("Request %s failed.", exchange.request_id)
            await exchange.refuse(500, errors.body_of(MdlError("")))
        finally:
            self._metrics.in_flight -= 1
            seconds = time.perf_counter() - start
            route = exchange.route()
            self._metrics.observe(route, method, exchange.status, seconds)
            client = scope.get("client")
            self.log.write(exchange, client[0] if client else "-", method, route, seconds)

    def at_once(self, ask: Ask, client: str, extra: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """The whole answer to a plain `GET /v1/resolve`, head and body.

        `None`, with nothing done, where the long way has to be gone: to a refusal, or because the
        answer needs the Hub or the database in a thread.

        Args:
            client: the other end's address, for the log.
            extra: headers of the server's.
        """
        start = time.perf_counter()
        headers = ask.headers
        try:
            if not self._is_known(headers.get(b"host")):
                return None
            role = self._tokens.role(headers.get(b"authorization"))
            if role is None:
                return None
            told = Told(self._request_id(headers.get(b"x-request-id")))
            told.role = role
            caller = Caller(role, _hub_token(headers.get(b"x-hub-token")))
            body, told.status = self._quick(ask.query, caller, told)
        except (MustAsk, Refused, MdlError):
            return None
        seconds = time.perf_counter() - start
        self._metrics.straight += 1
        self._metrics.observe("/v1/resolve", "GET", told.status, seconds)
        self.log.write(told, client, "GET", "/v1/resolve", seconds)
        lines = b"".join(b"%b: %b\r\n" % header for header in extra)
        ours = _JSON_HEAD % (len(body), told.request_id.encode())
        return b"%b%b%b%b" % (status_line(told.status), lines, ours, body)

    def forget(self) -> None:
        """What is held is out of date: the catalogue was changed here."""
        self._hot = HotAnswers()

    def _request_id(self, given: bytes | None) -> str:
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode()
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, exchange: "Exchange"
    ) -> None:
        path = scope["path"]
        self._check_host(scope, headers.get(b"host"))
        role = self._tokens.role(headers.get(b"authorization"))
        if role is None and path not in OPEN:
            raise Refused(401, "no_token", "This service needs a token.",
                          "Send `Authorization: Bearer TOKEN`.")  # fmt: skip
        exchange.role = role or "-"
        caller = Caller(role or "read", _hub_token(headers.get(b"x-hub-token")))
        if path == "/v1/resolve" and scope["method"] == "GET":
            body, status = await self.resolved(scope["query_string"], caller, exchange)
            await exchange.send_json(status, body)
            return
        scope["mdl.caller"], scope["mdl.exchange"] = caller, exchange
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._check_body(scope, headers)
        limited = _limited(receive, self._config.max_body, self._config.body_seconds)
        if path in UNBOUNDED:
            await self._app(scope, limited, exchange.send)
            return
        async with asyncio.timeout(self._config.request_seconds):
            await self._app(scope, limited, exchange.send)

    async def resolved(self, query: bytes, caller: Caller, told: Told) -> tuple[bytes, int]:
        """(JSON, status) of `GET /v1/resolve`: from what is held, what is stored, or the Hub.

        Raises:
            MdlError: the query or the name is refused, the database does not answer.
            TimeoutError: that took too long.
        """
        try:
            return self._quick(query, caller, told)
        except MustAsk:
            name, options = resolve_query.from_query(query, self._answers.settings.prefer)
            async with asyncio.timeout(self._config.request_seconds):
                answer = await self._answers.resolve(name, options, caller)
            return self._made(query, caller, told, answer)

    def _quick(self, query: bytes, caller: Caller, told: Told) -> tuple[bytes, int]:
        hot = self._hot.get(query, caller.role) if caller.hub_token is None else None
        if hot is not None:
            told.about, told.answer = hot.name, hot.repo_id
            self._metrics.answers[hot.outcome] += 1
            return hot.body, hot.status
        name, options = resolve_query.from_query(query, self._answers.settings.prefer)
        told.about = name[:200]
        return self._made(query, caller, told, self._answers.quick(name, options, caller))

    def _made(
        self, query: bytes, caller: Caller, told: Told, answer: Resolution
    ) -> tuple[bytes, int]:
        told.answer = answer.repo_id
        body, status = answer_bytes(answer, caller)
        if caller.hub_token is None:
            made = HotAnswer(
                time.monotonic(), body, status, told.about, answer.repo_id, outcome_of(answer)
            )
            self._hot.put(query, caller.role, made)
        return body, status

    def _is_known(self, host: bytes | None) -> bool:
        """Whether a Host header names this service."""
        if "*" in self._hosts:
            return True
        name = (host or b"").decode("latin-1").lower()
        if name.startswith("["):
            return name[: name.find("]") + 1] in self._hosts
        return name.partition(":")[0] in self._hosts

    def _check_host(self, scope: Scope, host: bytes | None) -> None:
        """A web page that points its own name at this address is not one of our callers."""
        if "*" in self._hosts:
            return
        if not self._is_known(host) or sum(key == b"host" for key, _ in scope["headers"]) != 1:
            raise Refused(421, "wrong_host", "This service is not known under that name.",
                          "Its operator can allow it with --allow-host.")  # fmt: skip

    def _check_body(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._config.max_body:
            raise _too_large(self._config.max_body)
        # What a web page of another origin may send without asking first is none of these kinds,
        # nor DELETE.
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        is_file = scope["path"] == IMPORT and kind in _FILE_KINDS
        if kind != b"application/json" and not is_file and scope["method"] != "DELETE":
            more = ", application/toml or text/csv" if scope["path"] == IMPORT else ""
            raise Refused(415, "usage", "The body is of a kind that is not taken here.",
                          f"Send `Content-Type: application/json`{more}.")  # fmt: skip
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            raise Refused(403, "no_access", "Requests of other web pages are not taken.",
                          "Send it without an Origin, or from the service's own page.")  # fmt: skip


def _hub_token(value: bytes | None) -> str | None:
    if value is None:
        return None
    if not _HUB_TOKEN.fullmatch(value):
        raise Refused(400, "usage", "X-Hub-Token holds what no token can.",
                      "Send the token alone, as the Hub gave it out.")  # fmt: skip
    return value.decode()


def _limited(receive: Receive, most: int, seconds: float) -> Receive:
    """A body within bounds: counted as it comes (a chunked one has no length), and in time.

    Also where the answer has all the time it wants, so that nobody holds connections with bodies
    that never end.
    """
    size, whole = 0, False
    end = time.monotonic() + seconds

    async def counted() -> Message:
        nonlocal size, whole
        if whole:  # what else comes tells that the caller hung up
            return await receive()
        try:
            async with asyncio.timeout(end - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise Refused(408, "usage", f"The body did not come within {seconds:.0f} s.",
                          "Send it again, all of it.") from None  # fmt: skip
        size += len(message.get("body", b""))
        if size > most:
            raise _too_large(most)
        whole = not message.get("more_body")
        return message

    return counted


def _too_large(most: int) -> Refused:
    return Refused(413, "usage", f"The body is larger than {most} bytes.", "Send it in parts.")


def _slow(seconds: float) -> dict[str, Any]:
    return {
        "error": {
            "code": "busy",
            "message": f"The answer took longer than {seconds:.0f} s.",
            "why": "the database or the Hub is slow",
            "next": "Try again in a moment.",
        }
    }


def check_role(scope: Scope, needed: str) -> Caller:
    """The caller, if their role is enough.

    Raises:
        Refused: it is not.
    """
    caller: Caller = scope["mdl.caller"]
    if not may(caller.role, needed):
        raise Refused(403, "no_access", "This needs a token with the role admin.",
                      "Tokens are set with --tokens-file or MDL_SERVE_TOKENS.")  # fmt: skip
    return caller
