"""Names to resolutions for many callers at once, each with their own access."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.service.resolving.caller_resolver import MustAsk
    from mdl.service.resolving.redaction import (
        answer_bytes,
        answer_json,
        without_places,
    )
    from mdl.service.resolving.resolver_pool import Caller, ResolverPool, outcome_of

__getattr__ = door(
    __name__,
    {
        "caller_resolver": "MustAsk",
        "redaction": "answer_bytes answer_json without_places",
        "resolver_pool": "Caller ResolverPool outcome_of",
    },
)
