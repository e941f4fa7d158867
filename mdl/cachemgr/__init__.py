"""The cache manager: inspect the Hugging Face cache, and shrink it safely.

The disk is the truth; the index (`mdl.store.CacheIndex`) is a view of it that can be rebuilt.
`scan` reads folders, `index` remembers them and lists what they hold; `remove`, `normalize` and
`verify` each make a plan first; `journal` carries changes out so that a kill at any instant loses
nothing; `daemon` does all of it unattended.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache, open_cache
    from mdl.cachemgr.known_names import cached_names, cached_revisions
    from mdl.cachemgr.layout import folder_name, parse_folder, repo_key
    from mdl.cachemgr.pins import parse_pin, pin_matches, waiting_note
    from mdl.cachemgr.types import CachedRepo, CachedRevision, Placement, Totals

__getattr__ = door(
    __name__,
    {
        "cache": "Cache open_cache",
        "known_names": "cached_names cached_revisions",
        "layout": "folder_name parse_folder repo_key",
        "pins": "parse_pin pin_matches waiting_note",
        "types": "CachedRepo CachedRevision Placement Totals",
    },
)
