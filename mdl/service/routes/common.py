"""What the routes share: the service, the caller and their role, the documented refusals."""

import json
from typing import TYPE_CHECKING, Any

from fastapi import Depends, Request, Response

from mdl.service.auth import may
from mdl.service.http_errors import Refusal
from mdl.service.schemas import ErrorResponse

if TYPE_CHECKING:
    from mdl.service.resolving import Caller
    from mdl.service.state import Service

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


def needs(role: str) -> Any:
    """A dependency that refuses callers below a role; everyone here may `read`."""

    async def check(request: Request) -> None:
        if not may(caller_of(request).role, role):
            raise Refusal(
                403, "no_access", "This needs a token with the role admin.",
                "Tokens are set with --tokens-file or MDL_SERVE_TOKENS.",
            )  # fmt: skip

    return Depends(check)
