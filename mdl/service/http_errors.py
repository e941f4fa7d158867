"""Errors as HTTP answers: which status, and how much of them a caller may see."""

from typing import Any

from mdl.errors import MdlError, NotFoundError

# A name the Hub would have to be asked about while it is out of reach is the failure of
# something this service depends on, not of the service: 424, so that balancers do not take a
# healthy replica away.
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
RETRY_AFTER = 2
# Their messages name places of the server's disk and its database.
_INSIDE = {
    "config": "The service's configuration cannot be used.",
    "store": "The service's database does not answer.",
    "busy": "The service is busy.",
    "disk": "The service's disk refuses.",
    "load": "The service failed.",
    "failed": "The service failed.",
}


def status_of(error: MdlError) -> int:
    return STATUS.get(error.code, 500)


def headers_of(status: int) -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER)} if status == 503 else {}


def body_of(error: MdlError, *, inside: bool = False) -> dict[str, Any]:
    """The JSON answer of a refusal.

    Args:
        inside: whether the caller may see the server's own paths and addresses.
    """
    shown = error.to_json()
    if error.code in _INSIDE and not inside:
        shown |= {"message": _INSIDE[error.code], "why": "", "next": "Try again in a moment."}
        if error.code in ("config", "disk", "load", "failed"):
            shown["next"] = "Tell the service's operator the request id."
        return {"error": shown}
    return {**error.details, "error": shown}


def not_cached(repo_id: str) -> NotFoundError:
    return NotFoundError(f"{repo_id} is not in the cache.", next="GET /v1/cache lists what is.")
