"""Errors over HTTP: which status, and how much of them a caller may see."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mdl.errors import MdlError, NotFoundError

# 424 where the Hub is out of reach: what failed is something this service depends on, and a
# load balancer must not take a healthy replica away for it.
STATUS = {
    "usage": 400,
    "name_refused": 400,
    "config": 500,
    "not_found": 404,
    "no_access": 403,
    "offline": 424,
    "verification_failed": 409,
    "busy": 503,
    "store": 503,
    "disk": 507,
    "load": 500,
    "failed": 500,
}
_RETRY_AFTER = "2"
# Their own messages name places on the server's disk, or its database.
_INTERNAL = {
    "config": "The service's configuration cannot be used.",
    "store": "The service's database does not respond.",
    "busy": "The service is busy.",
    "disk": "The service's disk cannot be written.",
    "load": "The service failed.",
    "failed": "The service failed.",
}


class Refusal(HTTPException):
    """A request refused for how it was sent, not for what it asks.

    An HTTPException, because FastAPI turns any other error raised while a body is read into 400.
    """

    def __init__(self, status: int, code: str, message: str, next: str, *, why: str = "") -> None:
        super().__init__(status, message)
        self.body = {"error": {"code": code, "message": message, "why": why, "next": next}}


def status_of(error: MdlError) -> int:
    return STATUS.get(error.code, 500)


def body_of(error: MdlError, *, internal: bool = False) -> dict[str, Any]:
    """The JSON body of an error.

    Args:
        internal: whether the caller may see the server's own paths and addresses.
    """
    shown = error.to_json()
    if error.code in _INTERNAL and not internal:
        shown |= {"message": _INTERNAL[error.code], "why": "", "next": "Try again in a moment."}
        if error.code in ("config", "disk", "load", "failed"):
            shown["next"] = "Tell the service's operator the request id."
        return {**_requested(error), "error": shown}
    return {**error.details, "error": shown}


def _requested(error: MdlError) -> dict[str, Any]:
    """Which of many names the error is about: the caller's own words."""
    return {key: value for key, value in error.details.items() if key == "requested"}


def error_response(request_id: str, status: int, body: Mapping[str, Any]) -> Response:
    """A response with an error's body, the request's id, and when to come back."""
    content = json.dumps({**body, "request_id": request_id})
    response = Response(content, status, media_type="application/json")
    if status == 503:
        response.headers["retry-after"] = _RETRY_AFTER
    if status in (408, 413):  # the rest of the body is not read
        response.headers["connection"] = "close"
    return response


def not_cached(repo_id: str) -> NotFoundError:
    return NotFoundError(f"{repo_id} is not in the cache.", next="GET /v1/cache lists what is.")
