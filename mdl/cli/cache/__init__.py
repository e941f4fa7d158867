"""`mdl cache`: list, show, prune, normalize, verify and undo."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cli.cache.listing import list_plainly

__getattr__ = door(
    __name__,
    {
        "listing": "list_plainly",
    },
)
