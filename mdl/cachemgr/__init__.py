"""The cache manager: see the whole Hugging Face cache at once, shrink it without fear.

The disk is the truth; the index (`mdl.store.cache_index`) is a view of it that can be rebuilt.
`scan` reads, `summary` and `inventory` count, `policy` and `removal` decide as pure functions,
`carry_out` and `journal` act so that a kill at any instant loses nothing.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache, Totals, open_cache
    from mdl.cachemgr.layout import repo_key
    from mdl.cachemgr.pins import keeps_something, parse_pin, waiting
    from mdl.cachemgr.remove.policy import Policy, PrunePlan
    from mdl.cachemgr.types import CachedRepo, CachedRevision, Placement

__getattr__ = door(
    __name__,
    {
        "cache": "Cache Totals open_cache",
        "layout": "repo_key",
        "pins": "keeps_something parse_pin waiting",
        "remove.policy": "Policy PrunePlan",
        "types": "CachedRepo CachedRevision Placement",
    },
)
