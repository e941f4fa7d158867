"""Assembles the service: middleware, routes, and how errors become responses."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from mdl.errors import MdlError, UsageError
from mdl.service.http_errors import Refusal, body_of, error_response, status_of
from mdl.service.middleware import (
    Authentication,
    HostCheck,
    HubRoutes,
    RequestLimits,
    RequestTracking,
    SiteCheck,
)
from mdl.service.resolving import without_places
from mdl.service.routes import (
    cache_router,
    caller_of,
    catalog_router,
    monitoring_router,
    page_router,
    resolve_router,
    service_of,
)
from mdl.service.state import Service
from mdl.version import __version__

log = logging.getLogger("mdl.service")


class _App(FastAPI):
    """FastAPI, with what the middlewares take in its OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        found = super().openapi()
        found["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "password": {"type": "http", "scheme": "basic", "description": "a token as password"},
        }
        # A service on loopback without tokens asks for none.
        found["security"] = [{}, {"token": []}, {"password": []}]
        return found


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service."""
    layers = (
        RequestTracking, HostCheck, SiteCheck, HubRoutes, Authentication, RequestLimits,
    )  # fmt: skip
    app = _App(
        title="mdl",
        version=__version__,
        description="Resolve model names, and look after a Hugging Face cache, over HTTP.",
        lifespan=lambda _app: service.running(),
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # behind a TLS proxy it would lead to http
        middleware=[Middleware(layer, service=service) for layer in layers],
        exception_handlers={
            MdlError: _mdl_error,
            RequestValidationError: _invalid,
            HTTPException: _http_error,
            ClientDisconnect: _hung_up,
        },
    )
    app.state.service = service
    for router in (resolve_router, monitoring_router, catalog_router, cache_router, page_router):
        app.include_router(router)
    return app


def _respond(request: Request, status: int, body: Mapping[str, Any]) -> Response:
    return error_response(request.state.request_id, status, body)


async def _mdl_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MdlError)
    status = status_of(error)
    if status >= 500:
        log.error("%s %s", request.state.request_id, error)
    internal = caller_of(request).role == "admin"
    body = body_of(error, internal=internal)
    if not internal:
        body = without_places(body, service_of(request).settings)
    return _respond(request, status, body)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _respond(request, 400, body_of(_not_json(str(first["ctx"]["error"]))))
    place, reason = _first_mistake(error.errors())
    where = ".".join(str(part) for part in place if part not in ("body", "query", "path"))
    wrong = UsageError(
        f"{ascii(where)[1:-1][:80] or 'The request'} is not valid: {reason}.",
        next="See /openapi.json for what is expected.",
    )
    return _respond(request, 400, body_of(wrong))


def _first_mistake(found: Sequence[Mapping[str, Any]]) -> tuple[tuple[str | int, ...], str]:
    """Where it is and what; for a field of several types, all their reasons together."""
    place, reason = found[0]["loc"], found[0]["msg"]
    if not _is_type(place[-1]):
        return place, reason
    same = [e["msg"] for e in found if e["loc"][:-1] == place[:-1] and _is_type(e["loc"][-1])]
    return place[:-1], "; or ".join(same)


def _is_type(part: str | int) -> bool:
    """Whether a part of a place is what pydantic adds for each type that a field may have."""
    return bool(re.fullmatch(r"(constrained-)?(str|int|float)|list\[.*\]", str(part)))


def _not_json(why: str) -> UsageError:
    return UsageError("The body is not JSON.", why=why, next="See /openapi.json for its shape.")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refusal):
        return _respond(request, error.status_code, error.body)
    if error.status_code == 400:  # what FastAPI makes of a body that only its parser refuses
        why = "it is nested too deeply, or contains too long a number"
        return _respond(request, 400, body_of(_not_json(why)))
    messages = {404: "There is nothing at this address.", 405: "This method is not allowed here."}
    body = {
        "code": "not_found" if error.status_code == 404 else "usage",
        "message": messages.get(error.status_code, "The request cannot be handled."),
        "why": "",
        "next": "See /openapi.json.",
    }
    response = _respond(request, error.status_code, {"error": body})
    if error.status_code == 405:
        response.headers["allow"] = ", ".join(_allowed(request))
    return response


def _allowed(request: Request) -> list[str]:
    """Every method of this address: the router names those of the first route only.

    Where an address is documented itself, those of routes with a name in it are not meant.
    """
    documented = request.app.openapi()["paths"].get(request.url.path)
    if documented is not None:
        return _with_head({method.upper() for method in documented})
    routes = request.app.routes
    allowed = {
        method
        for method in ("GET", "POST", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL
               for route in routes)
    }  # fmt: skip
    return _with_head(allowed)


def _with_head(methods: set[str]) -> list[str]:
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _hung_up(request: Request, error: Exception) -> Response:
    """Nobody reads this; the log shows the status, and nothing here failed."""
    return _respond(request, 400, body_of(_not_json("the caller hung up before its end")))
