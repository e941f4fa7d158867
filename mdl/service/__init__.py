"""The HTTP face of resolver and cache: `mdl serve`.

`guard` stands before everything (who may speak, how much, for how long), `answers` asks the
resolver on behalf of a caller, `keeper` holds the cache's view, `api` and `page` are routes.
`client` is the other end: what MDL_SERVER makes `mdl resolve` use; it imports nothing of the rest.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.service.config import ServiceConfig, is_loopback
    from mdl.service.server import serve

__getattr__ = door(
    __name__,
    {
        "config": "ServiceConfig is_loopback",
        "server": "serve",
    },
)
