"""What the routes share: the service, the caller and their role, the documented refusals."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Depends, HTTPException, Request, Response
from starlette.requests import ClientDisconnect

from mdl.errors import MdlError
from mdl.hub_server import hung_up
from mdl.resolver import Family, Resolution, ResolveOptions
from mdl.service.auth import may
from mdl.service.http_errors import Refusal
from mdl.service.schemas import ErrorResponse

if TYPE_CHECKING:
    from mdl.service.resolving import Caller
    from mdl.service.state import Service

T = TypeVar("T")
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "The request is malformed.",
        401: "A token is needed.",
        403: "The token's role is too low, or the Hub denies access.",
        404: "No such repository, revision or entry.",
        424: "The Hub is needed and cannot be reached.",
        503: "Busy, or the database is down; Retry-After says when to try again.",
    }.items()
}
BODY_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        408: "The body did not arrive in time.",
        409: "The plan has changed; look at it again.",
        413: "The body is too large.",
        415: "This type of body is not accepted.",
    }.items()
}


def service_of(request: Request) -> "Service":
    service: Service = request.app.state.service
    return service


def caller_of(request: Request) -> "Caller":
    caller: Caller = request.state.caller
    return caller


def json_response(body: Any, status: int = 200) -> Response:
    """In ASCII, so that names that are not UTF-8 on the disk can be sent."""
    return Response(json.dumps(body), status, media_type="application/json")


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Wait for work that its caller waits for; cancel it when they hang up.

    Raises:
        ClientDisconnect: they did.
    """
    task, gone = asyncio.ensure_future(work), asyncio.create_task(hung_up(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def resolve_one(request: Request, name: str, options: ResolveOptions) -> Resolution:
    """Resolve a name as the caller: at once if that is possible, or as long as they wait.

    Raises:
        MdlError: the name is refused, or the database does not respond.
    """
    resolver, caller = service_of(request).resolver, caller_of(request)
    found = resolver.resolve_now(name, options, caller)
    if found is None:
        found = await while_connected(request, resolver.resolve(name, options, caller))
    return found


async def family_of(request: Request, name: str) -> Family:
    """The family of a model as the caller sees it, and what this cache has of it.

    Raises:
        MdlError: there is no such repository, or nothing is known of it.
    """
    service = service_of(request)
    with contextlib.suppress(MdlError):  # shown without a cache that cannot be read
        await service.cache.state()
    return await while_connected(request, service.resolver.family(name, caller_of(request)))


async def family_if_known(request: Request, name: str) -> Family | None:
    """The family of a resolved name; `None` where nothing is known of it."""
    with contextlib.suppress(MdlError):
        return await family_of(request, name)
    return None


async def _refuse_own_address(request: Request) -> None:
    if request.url.path in request.app.openapi()["paths"]:
        raise HTTPException(405)


# For routes with a name in their address: `/v1/cache/plans` has no repository called plans.
OF_A_NAME = Depends(_refuse_own_address)


def needs(role: str) -> Any:
    """A dependency that refuses callers below a role; everyone here may `read`."""

    async def check(request: Request) -> None:
        if not may(caller_of(request).role, role):
            raise Refusal(
                403, "no_access", "This needs a token with the role admin.",
                "Tokens are set with --tokens-file or MDL_SERVE_TOKENS.",
            )  # fmt: skip

    return Depends(check)
