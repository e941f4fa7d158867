"""Formats that are taken as they are stored (GGUF, AWQ, MLX, …): whose repository, which files."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.resolver.stored.listing import Listing
    from mdl.resolver.stored.lookup import (
        TREE_SOURCE,
        StoredLookup,
        list_row,
        remember_tree,
        tree_rows,
    )

__getattr__ = door(
    __name__,
    {
        "listing": "Listing",
        "lookup": "TREE_SOURCE StoredLookup list_row remember_tree tree_rows with_cached_files",
    },
)
