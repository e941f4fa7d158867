"""Resolve a model name and a format to a repository, with the reasons.

`Resolver` gathers facts (database, Hub, the cache view it is given); `rules.decide` decides.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.resolver.catalog_check import check_mirrors, sync_mirrors
    from mdl.resolver.catalog_file import (
        HIGHEST_RANK,
        catalog_text,
        mirror_row,
        parse_catalog_file,
        read_catalog_file,
        rows_to_remove,
    )
    from mdl.resolver.hub_api import HubApi
    from mdl.resolver.hub_description import format_on_hub
    from mdl.resolver.lockfile import (
        LockEntry,
        lock_entry,
        lock_text,
        read_lock,
        resolve_locked,
        write_lock,
    )
    from mdl.resolver.names import Name, is_commit, parse_name, shown
    from mdl.resolver.refusals import no_access, not_at_revision
    from mdl.resolver.relatives import Family, Member, family
    from mdl.resolver.remote import RemoteResolver
    from mdl.resolver.resolver import Resolver
    from mdl.resolver.stored import bytes_by_name, memory_needed, remember_tree
    from mdl.resolver.token_fingerprint import fingerprint
    from mdl.resolver.types import (
        READABLE,
        Access,
        Cached,
        CacheView,
        RepoInfo,
        Resolution,
        ResolveOptions,
        TraceStep,
    )
    from mdl.resolver.unsloth_table import read_unsloth

__getattr__ = door(
    __name__,
    {
        "catalog_check": "check_mirrors sync_mirrors",
        "catalog_file": (
            "HIGHEST_RANK catalog_text mirror_row parse_catalog_file read_catalog_file "
            "rows_to_remove"
        ),
        "relatives": "Family Member family",
        "hub_api": "HubApi",
        "hub_description": "format_on_hub",
        "lockfile": "LockEntry lock_entry lock_text read_lock resolve_locked write_lock",
        "names": "Name is_commit parse_name shown",
        "refusals": "no_access not_at_revision",
        "remote": "RemoteResolver",
        "resolver": "Resolver",
        "stored": "bytes_by_name memory_needed remember_tree",
        "token_fingerprint": "fingerprint",
        "types": "Access CacheView Cached READABLE RepoInfo Resolution ResolveOptions TraceStep",
        "unsloth_table": "read_unsloth",
    },
)
