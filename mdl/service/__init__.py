"""Resolver and cache over HTTP: `mdl serve`.

`server` runs `app`, which puts `middleware` around `routes`; `state` is what they share.
`resolving` resolves names for many callers at once, `cache` watches and changes the cache.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.service.config import ServiceConfig
    from mdl.service.server import serve

__getattr__ = door(
    __name__,
    {
        "config": "ServiceConfig",
        "server": "serve",
    },
)
