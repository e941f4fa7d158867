"""The database: the only place that knows SQL.

`catalog` is the shared one (SQLite or PostgreSQL, migrated by Alembic); the cache's index is
each machine's own (`cacheindex`).
"""
