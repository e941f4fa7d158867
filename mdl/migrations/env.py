"""Alembic's entry: run on the connection that `mdl.store.upgrade` opened and locked."""

from alembic import context

from mdl.store import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
