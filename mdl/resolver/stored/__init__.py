"""Formats that are taken as they are stored (GGUF, AWQ, MLX, …): whose repository, which files."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.resolver.stored.for_runtime import resolve_for
    from mdl.resolver.stored.hardware import this_machine
    from mdl.resolver.stored.listing import FamilyRows, Listing
    from mdl.resolver.stored.lookup import StoredLookup, with_cached_files
    from mdl.resolver.stored.model_tree import TREE_SOURCE, list_row, remember_tree, tree_rows
    from mdl.resolver.stored.runtime import (
        about_bytes,
        bytes_by_name,
        memory_needed,
        runtime_named,
    )
    from mdl.resolver.stored.trust import trust_rank

__getattr__ = door(
    __name__,
    {
        "for_runtime": "resolve_for",
        "hardware": "this_machine",
        "listing": "FamilyRows Listing",
        "lookup": "StoredLookup with_cached_files",
        "model_tree": "TREE_SOURCE list_row remember_tree tree_rows",
        "runtime": "about_bytes bytes_by_name memory_needed runtime_named",
        "trust": "trust_rank",
    },
)
