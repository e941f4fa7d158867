"""What of a result a caller may see: the server's disk is the operator's business alone."""

import json
from typing import Any

from mdl.errors import MdlError
from mdl.resolver import Family, Resolution
from mdl.service.http_errors import body_of
from mdl.service.resolving.resolver_pool import Caller
from mdl.settings import Settings


def resolution_json(found: Resolution | MdlError, caller: Caller) -> dict[str, Any]:
    """The object of `mdl resolve --json`; paths are only for the role admin."""
    internal = caller.role == "admin"
    if isinstance(found, MdlError):
        return body_of(found, internal=internal)
    body = found.to_json()
    if not internal:
        if body["cached"] is not None:
            body["cached"]["path"] = None
        body["local_mirrors"] = [
            {key: value for key, value in mirror.items() if key != "path"}
            for mirror in body["local_mirrors"]
        ]
    if found.error is not None and "suggestions" in found.error.details:
        body["suggestions"] = found.error.details["suggestions"]
    return body


def family_json(found: Family, caller: Caller) -> dict[str, Any]:
    """The object of `mdl tree --json`; paths are only for the role admin."""
    body = found.to_json()
    for member in body["members"]:
        if caller.role != "admin" and member["cached"] is not None:
            member["cached"]["path"] = None
    return body


def without_places(body: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A body whose sentences name no folder of the server's disk."""
    text = json.dumps(body)
    for place in (settings.cache_root, settings.home):
        text = text.replace(json.dumps(str(place))[1:-1], "…")
    shown: dict[str, Any] = json.loads(text)
    return shown
