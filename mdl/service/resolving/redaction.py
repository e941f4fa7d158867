"""What of an answer a caller may see: the server's disk is nobody's business but the operator's."""

import json
from typing import Any

from mdl.errors import MdlError
from mdl.resolver import Resolution
from mdl.service import http_errors as errors
from mdl.service.resolving.resolver_pool import Caller
from mdl.settings import Settings


def answer_json(answer: Resolution | MdlError, caller: Caller) -> dict[str, Any]:
    """The object of `mdl resolve --json`, without paths for callers who are not the operator."""
    inside = caller.role == "admin"
    if isinstance(answer, MdlError):
        return errors.body_of(answer, inside=inside)
    body = answer.to_json()
    if not inside:
        if body["cached"] is not None:
            body["cached"]["path"] = None
        # Where the weights of a gated repository lie helps nobody who cannot read that disk.
        body["local_mirrors"] = [
            {key: value for key, value in mirror.items() if key != "path"}
            for mirror in body["local_mirrors"]
        ]
    if answer.error is not None and "suggestions" in answer.error.details:
        body["suggestions"] = answer.error.details["suggestions"]
    return body


def answer_bytes(answer: Resolution, caller: Caller) -> tuple[bytes, int]:
    """(JSON, status): a refusal is an answer too, with the status of its error."""
    status = 200 if answer.error is None else errors.status_of(answer.error)
    return json.dumps(answer_json(answer, caller)).encode(), status


def without_places(body: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A body as callers see it who are not the operator: sentences name no folder of this disk."""
    text = json.dumps(body)
    for place in (settings.cache_root, settings.home):
        text = text.replace(json.dumps(str(place))[1:-1], "…")
    shown: dict[str, Any] = json.loads(text)
    return shown
