"""What every request passes before a route: its id and log line, host, token and limits."""

import asyncio
import itertools
import logging
import os
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mdl.errors import MdlError
from mdl.hub_server import is_hub_path
from mdl.service.http_errors import Refusal, body_of, error_response
from mdl.service.request_log import log_request
from mdl.service.resolving import Caller

if TYPE_CHECKING:
    from mdl.service.state import Service

log = logging.getLogger("mdl.service")

_NEEDS_NO_TOKEN = frozenset({"/v1/health", "/v1/ready"})
# An event stream has no end; a change or a verification takes as long as the bytes it reads.
_NEEDS_NO_END = frozenset({"/v1/events", "/v1/cache/actions", "/v1/cache/verify", "/page/act"})
_IMPORT = "/v1/catalog/import"  # the one route whose body may be a file
# Other types of a body than JSON, where they are accepted.
_TYPES = {
    _IMPORT: frozenset({"application/toml", "text/csv"}),
    "/page/act": frozenset({"application/x-www-form-urlencoded"}),
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HUB_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,256}")


Header = tuple[bytes, bytes]
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Middleware:
    """A layer around the routes; other scopes than HTTP pass through."""

    def __init__(self, app: ASGIApp, service: "Service") -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.handle(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class RequestTracking(Middleware):
    """Gives a request its id, its log line and its place in the metrics; HEAD is GET.

    Outermost: it also turns what the layers inside raise into responses.
    """

    def __init__(self, app: ASGIApp, service: "Service") -> None:
        super().__init__(app, service)
        self._prefix = os.urandom(4).hex()
        self._count = itertools.count(1)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        request_id = _header(scope, b"x-request-id") or ""
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = f"{self._prefix}-{next(self._count):x}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["method"] = method
        status, finished = 0, False

        async def tracked_send(message: Message) -> None:
            nonlocal status, finished
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _protected(message["headers"], request_id)
            elif message["type"] == "http.response.body":
                finished = not message.get("more_body")
            await send(message)

        metrics = self.service.metrics
        metrics.in_flight.inc()
        try:
            await self.app(scope, receive, tracked_send)
        except Exception as error:
            if not status:
                code, body = self._explain(error, request_id)
                await error_response(request_id, code, body)(scope, receive, tracked_send)
            elif not finished:  # only the end of the connection can tell the caller
                raise ConnectionAbortedError(f"request {request_id} failed half-way") from error
        finally:
            metrics.in_flight.dec()
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", None) or state.get("route", "other")
            metrics.observe(route, method, status, seconds)
            client, caller = scope.get("client"), state.get("caller")
            log_request(
                request=request_id,
                client=client[0] if client else "-",
                role=caller.role if caller else "-",
                method=method,
                route=route,
                status=status,
                ms=round(seconds * 1000, 2),
                **state.get("logged", {}),
            )

    def _explain(self, error: Exception, request_id: str) -> tuple[int, dict[str, Any]]:
        if isinstance(error, TimeoutError):
            seconds = self.service.config.request_seconds
            error = Refusal(
                503, "busy", f"The request took longer than {seconds:.0f} s.",
                "Try again in a moment.", why="the database or the Hub is slow",
            )  # fmt: skip
        if isinstance(error, Refusal):
            return error.status_code, error.body
        log.error("Request %s failed.", request_id, exc_info=error)
        return 500, body_of(MdlError(""))


def _protected(headers: Iterable[Header], request_id: str) -> list[Header]:
    """A response's headers, with the request's id and what no other site's page may do with it."""
    found = [*headers, (b"x-request-id", request_id.encode()), *_ALWAYS]
    if not any(name == b"content-security-policy" for name, _ in found):
        found.append((b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"))
    return found


class HostCheck(Middleware):
    """Refuses unknown host names, so that no web site can point its own name at this address."""

    def __init__(self, app: ASGIApp, service: "Service") -> None:
        super().__init__(app, service)
        self._names = service.config.host_names

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = [value for key, value in scope["headers"] if key == b"host"]
        if "*" not in self._names and (len(given) != 1 or not self._is_known(given[0])):
            raise Refusal(
                421, "wrong_host", "This service does not go by that name.",
                "Its operator can allow the name with --allow-host.",
            )  # fmt: skip
        await self.app(scope, receive, send)

    def _is_known(self, host: bytes) -> bool:
        name = host.decode("latin-1").lower()
        if name.startswith("["):
            return name[: name.find("]") + 1] in self._names
        return name.partition(":")[0] in self._names


class SiteCheck(Middleware):
    """Refuses what a page of another site makes a browser send.

    Otherwise such a page could learn what is cached, or have the Hub asked. A link to the page
    itself works, but does nothing (`cross_site` in the request's state).
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        site = _header(scope, b"sec-fetch-site")
        scope["state"]["cross_site"] = cross_site = site not in (None, "same-origin", "none")
        if cross_site and not _is_link(scope):
            raise Refusal(
                403, "no_access", "Requests from other web sites are not accepted.",
                "Open the address itself.",
            )  # fmt: skip
        await self.app(scope, receive, send)


def _is_link(scope: Scope) -> bool:
    return (
        scope["method"] in ("GET", "HEAD")
        and scope["path"] == "/"
        and _header(scope, b"sec-fetch-mode") == "navigate"
        and _header(scope, b"sec-fetch-dest") == "document"
    )


class HubRoutes(Middleware):
    """Hands the Hub's addresses to its own server: their callers send tokens of the Hub."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        hub = self.service.hub
        if hub is not None and is_hub_path(scope["path"]):
            await hub(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class Authentication(Middleware):
    """Finds out who is calling; without a known token only the health routes respond."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        role = self.service.tokens.role(_header(scope, b"authorization"))
        if role is None and scope["path"] not in _NEEDS_NO_TOKEN:
            await self._challenge(scope, receive, send)
            return
        hub_token = _header(scope, b"x-hub-token")
        if hub_token is not None and not _HUB_TOKEN.fullmatch(hub_token):
            raise Refusal(
                400,
                "usage",
                "X-Hub-Token is not a token.",
                "Send the token alone, as the Hub shows it.",
            )
        scope["state"]["caller"] = Caller(role or "read", hub_token)
        await self.app(scope, receive, send)

    async def _challenge(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = Refusal(
            401, "no_token", "This service needs a token.", "Send `Authorization: Bearer TOKEN`."
        )
        response = error_response(scope["state"]["request_id"], 401, refusal.body)
        for scheme in ("Bearer", "Basic"):
            realm = f'{scheme} realm="mdl (password: a token)"'
            response.headers.append("www-authenticate", realm)
        await response(scope, receive, send)


class RequestLimits(Middleware):
    """Bounds the size, kind and time of a body, and the time of the whole request."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        config = self.service.config
        if scope["method"] in ("POST", "DELETE"):  # no route takes another one with a body
            _check_body(scope, config.max_body)
        bounded = _bounded_body(receive, config.max_body, config.body_seconds)
        seconds = None if scope["path"] in _NEEDS_NO_END else config.request_seconds
        async with asyncio.timeout(seconds):
            await self.app(scope, bounded, send)


def _check_body(scope: Scope, most: int) -> None:
    length = _header(scope, b"content-length") or "0"
    if not re.fullmatch("[0-9]+", length) or int(length) > most:
        raise _too_large(most)
    # A web page of another origin can send none of these types, nor DELETE, without asking first;
    # but for a form, whose origin and key are checked.
    kind = (_header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    types = _TYPES.get(scope["path"], frozenset())
    empty = not kind and not int(length) and _header(scope, b"transfer-encoding") is None
    if not empty and kind not in ("application/json", *types) and scope["method"] != "DELETE":
        more = ", application/toml or text/csv" if scope["path"] == _IMPORT else ""
        raise Refusal(
            415, "usage", "This type of body is not accepted here.",
            f"Send `Content-Type: application/json`{more}.",
        )  # fmt: skip
    origin = _header(scope, b"origin")
    if origin is not None and origin.partition("://")[2] != _header(scope, b"host"):
        raise Refusal(
            403, "no_access", "Requests from other web sites are not accepted.",
            "Send it without Origin, or from the service's own page.",
        )  # fmt: skip


def _bounded_body(receive: Receive, most: int, seconds: float) -> Receive:
    """A body counted as it comes (a chunked one has no length), complete in time."""
    size, complete = 0, False
    end = time.monotonic() + seconds

    async def bounded() -> Message:
        nonlocal size, complete
        if complete:  # what comes now is that the caller hung up
            return await receive()
        try:
            async with asyncio.timeout(end - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise Refusal(
                408, "usage", f"The body took longer than {seconds:.0f} s.", "Send it again."
            ) from None
        size += len(message.get("body", b""))
        if size > most:
            raise _too_large(most)
        complete = not message.get("more_body")
        return message

    return bounded


def _too_large(most: int) -> Refusal:
    return Refusal(413, "usage", f"The body is larger than {most} bytes.", "Send it in parts.")


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None
