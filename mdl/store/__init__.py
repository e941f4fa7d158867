"""The database: the only place that knows SQL.

`catalog` is the shared one (SQLite or PostgreSQL, migrated by Alembic); the cache's index is
each machine's own (`cacheindex`).
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.store.cache_index import CacheIndex, FolderRow, JournalAction
    from mdl.store.catalog import Catalog, open_catalog
    from mdl.store.rows import (
        FORMATS,
        LOADABLE_FORMATS,
        USER,
        BadMirror,
        CatalogSource,
        LocalMirror,
        MirrorRow,
        NameRecord,
        RepositoryRow,
    )
    from mdl.store.tables import metadata

__getattr__ = door(
    __name__,
    {
        "cache_index": "CacheIndex FolderRow JournalAction",
        "catalog": "Catalog open_catalog",
        "rows": (
            "BadMirror CatalogSource FORMATS LOADABLE_FORMATS LocalMirror MirrorRow NameRecord "
            "RepositoryRow USER"
        ),
        "tables": "metadata",
    },
)
