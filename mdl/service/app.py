"""Putting the service together: state, routes, and how errors become answers."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mdl.errors import MdlError, UsageError
from mdl.service import http_errors as errors
from mdl.service.auth import Tokens
from mdl.service.cache import CacheService, Streams
from mdl.service.config import ServiceConfig
from mdl.service.exchange import Exchange, Refused
from mdl.service.guard import Guard
from mdl.service.metrics import Metrics
from mdl.service.resolving import ResolverPool, without_places
from mdl.service.routes import catalog as catalogapi
from mdl.service.routes import page, service_of
from mdl.service.routes import resolve as api
from mdl.settings import Settings
from mdl.version import __version__

log = logging.getLogger("mdl.service")


class Service:
    """Everything one process holds. Another replica would miss none of it."""

    def __init__(self, settings: Settings, config: ServiceConfig) -> None:
        self.settings = settings
        self.config = config
        self.started = time.monotonic()
        self.metrics = Metrics()
        self.tokens = Tokens(config.tokens_file, config.tokens)
        config.check(has_tokens=len(self.tokens) > 0)
        self.keeper = CacheService(settings)
        self.answers = ResolverPool(settings, config, self.keeper.cached, self.metrics)
        self.streams = Streams(self.keeper)
        self.guard = Guard(_routes(self), config, self.tokens, self.answers, self.metrics)

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Open what can be opened, write the resolution log once a second, close."""
        for opening in (self.answers.in_thread(self.answers.ready), self.keeper.view()):
            try:
                await opening
            except MdlError as error:
                # Not the end: /v1/ready says so, and the next request tries again.
                log.error("Started, but not ready: %s", error)
        self.guard.log.start()
        writing = asyncio.create_task(self._write_resolutions())
        try:
            yield
        finally:
            writing.cancel()
            await self.answers.close()
            self.keeper.close()
            await asyncio.to_thread(self.guard.log.close)

    async def _write_resolutions(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await asyncio.to_thread(self.answers.flush_log)


def create_app(settings: Settings, config: ServiceConfig | None = None) -> Guard:
    """The ASGI application.

    Raises:
        ConfigError: the address needs tokens or names, the tokens cannot be used.
    """
    return Service(settings, config or ServiceConfig()).guard


def _routes(service: Service) -> FastAPI:
    app = FastAPI(
        title="mdl",
        version=__version__,
        description="What will this model name give, is it here: resolver and cache over HTTP.",
        lifespan=service.lifespan,
        docs_url=None,  # its pages load scripts from other hosts
        redoc_url=None,
        openapi_url="/openapi.json",
        exception_handlers={
            MdlError: _mdl_error,
            Refused: _refused,
            RequestValidationError: _invalid,
            HTTPException: _http_error,
            ClientDisconnect: _hung_up,
            Exception: _unexpected,
        },
    )
    app.state.service = service
    app.include_router(api.router)
    app.include_router(catalogapi.router)
    app.add_api_route("/metrics", api.metrics, response_class=Response, include_in_schema=False)
    app.include_router(page.router)
    return app


def _reply(request: Request, status: int, body: Mapping[str, object]) -> Response:
    exchange: Exchange = request.scope["mdl.exchange"]
    shown = {**body, "request_id": exchange.request_id}
    return Response(json.dumps(shown), status, errors.headers_of(status), "application/json")


async def _mdl_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MdlError)
    status = errors.status_of(error)
    if status >= 500:
        log.error("%s %s", request.scope["mdl.exchange"].request_id, error)
    inside = request.scope["mdl.caller"].role == "admin"
    body = errors.body_of(error, inside=inside)
    if not inside:
        body = without_places(body, service_of(request).settings)
    return _reply(request, status, body)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    reply = _reply(request, error.status, error.body)
    if error.status in (408, 413):  # the rest of the body is not read
        reply.headers["connection"] = "close"
    return reply


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _reply(request, 400, errors.body_of(_no_json(str(first["ctx"]["error"]))))
    place, reason = _what_is_wrong(error.errors())
    where = ".".join(str(part) for part in place if part not in ("body", "query", "path"))
    wrong = UsageError(
        f"{ascii(where)[1:-1][:80] or 'The request'} is not usable: {reason}.",
        next="See /openapi.json for what is expected.",
    )
    return _reply(request, 400, errors.body_of(wrong))


def _what_is_wrong(found: Sequence[Mapping[str, Any]]) -> tuple[tuple[str | int, ...], str]:
    """Where the first mistake is and what; of a field with several types, said once of all."""
    place, reason = found[0]["loc"], found[0]["msg"]
    same = [e["msg"] for e in found if e["loc"][:-1] == place[:-1] and e["loc"][-1] in _TYPES]
    return (place[:-1], "; or ".join(same)) if place[-1] in _TYPES else (place, reason)


# What pydantic adds to a field's place for each type that it may have.
_TYPES = ("str", "int", "float")


def _no_json(why: str) -> UsageError:
    return UsageError("The body is not JSON.", why=why, next="See /openapi.json for its shape.")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # what FastAPI makes of a body that only its parser refuses
        why = "it is nested too deep, or has too long a number"
        return _reply(request, 400, errors.body_of(_no_json(why)))
    kind = "not_found" if error.status_code == 404 else "usage"
    message = {404: "There is nothing here.", 405: "This cannot be done here."}.get(
        error.status_code, "The request cannot be answered."
    )
    body = {"code": kind, "message": message, "why": "", "next": "See /openapi.json."}
    reply = _reply(request, error.status_code, {"error": body})
    reply.headers.update(error.headers or {})
    return reply


async def _hung_up(request: Request, error: Exception) -> Response:
    """Nobody reads this; it is no failure of ours, and the log shows the status."""
    return _reply(request, 400, errors.body_of(_no_json("the caller hung up before its end")))


async def _unexpected(request: Request, error: Exception) -> Response:
    return _reply(request, 500, errors.body_of(MdlError(str(error))))
