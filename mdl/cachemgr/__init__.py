"""The cache manager: see the whole Hugging Face cache at once, shrink it without fear.

The disk is the truth; the index (`mdl.store.cacheindex`) is a view of it that can be rebuilt.
`scan` reads, `summary` and `inventory` count, `policy` and `removal` decide as pure functions,
`carry_out` and `journal` act so that a kill at any instant loses nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache, Totals, open_cache
    from mdl.cachemgr.policy import Policy, PrunePlan
    from mdl.cachemgr.values import CachedRepo, CachedRevision, Placement

__all__ = [
    "Cache",
    "CachedRepo",
    "CachedRevision",
    "Placement",
    "Policy",
    "PrunePlan",
    "Totals",
    "open_cache",
]

_HOME = {
    "Cache": "cache",
    "CachedRepo": "values",
    "CachedRevision": "values",
    "Placement": "values",
    "Policy": "policy",
    "PrunePlan": "policy",
    "Totals": "cache",
    "open_cache": "cache",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"mdl.cachemgr.{_HOME[name]}"), name)
    raise AttributeError(f"module 'mdl.cachemgr' has no attribute {name!r}")
