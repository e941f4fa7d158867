"""Resolving names for many callers at once, each with their own access."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.service.resolving.html import error_html, resolution_html
    from mdl.service.resolving.redaction import (
        family_json,
        resolution_json,
        without_places,
    )
    from mdl.service.resolving.resolver_pool import Caller, ResolverPool

__getattr__ = door(
    __name__,
    {
        "html": "error_html resolution_html",
        "redaction": "family_json resolution_json without_places",
        "resolver_pool": "Caller ResolverPool",
    },
)
