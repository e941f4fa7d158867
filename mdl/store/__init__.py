"""All SQL is here.

`catalog` may be shared (SQLite or PostgreSQL, migrated by Alembic); `cache_index` is each machine's
own.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.store.cache_index import CacheIndex, FolderRow, JournalAction
    from mdl.store.catalog import Catalog, open_catalog
    from mdl.store.known_names import catalogued_names, indexed_folders
    from mdl.store.packaged import write_packaged
    from mdl.store.rows import (
        FORMATS,
        LOADABLE_FORMATS,
        STORED_FORMATS,
        USER,
        BadMirror,
        CatalogSource,
        LocalMirror,
        MirrorRow,
        Mirrors,
        NameRecord,
        RepositoryRow,
    )
    from mdl.store.tables import metadata
    from mdl.store.variants import VariantRow, VariantTable

__getattr__ = door(
    __name__,
    {
        "cache_index": "CacheIndex FolderRow JournalAction",
        "catalog": "Catalog open_catalog",
        "known_names": "catalogued_names indexed_folders",
        "packaged": "write_packaged",
        "rows": (
            "BadMirror CatalogSource FORMATS LOADABLE_FORMATS LocalMirror MirrorRow Mirrors "
            "NameRecord RepositoryRow STORED_FORMATS USER"
        ),
        "tables": "metadata",
        "variants": "VariantRow VariantTable",
    },
)
