"""Alembic migrations of the catalogue; run by `mdl.store.upgrade`, never by hand."""
