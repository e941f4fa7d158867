"""The HTTP routes. Thin: parse, call, respond."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.service.routes.resolve import service_of

__getattr__ = door(
    __name__,
    {
        "resolve": "service_of",
    },
)
