"""Upgrade a database to this version's schema: once, under a lock, after a backup."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mdl.errors import BusyError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from alembic.config import Config
    from sqlalchemy import Connection, Engine

# The newest migration. A constant, so that opening a current database does not import Alembic; a
# test compares it with Alembic's own head.
HEAD = "0004"

_ADVISORY_LOCK = 0x6D646C  # "mdl"; any number that nobody else uses
_WAIT_SECONDS = 60.0


def upgrade_sqlite(file: str) -> None:
    """Create or upgrade the SQLite database `file`; an existing one is backed up first.

    Raises:
        BusyError: another process kept the upgrade lock for a minute.
        StoreError: the file is not a database, or was made by a newer mdl.
    """
    from pathlib import Path

    from sqlalchemy import create_engine, event

    path = Path(file)
    _make_private_folder(path.parent)
    with _file_lock(path.with_name(path.name + ".upgrade-lock")):
        current = sqlite_revision(file)
        if current == HEAD:
            return
        if current is not None:
            _backup(path)
        # A new database appears complete: after a kill in between, the next start makes it again.
        there = path.exists() and path.stat().st_size > 0
        made = path if there else path.with_name(path.name + ".new")
        if made is not path:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(made.name + suffix).unlink(missing_ok=True)
            made.touch(mode=0o600)
        engine = create_engine(f"sqlite:///{made}")
        event.listen(engine, "connect", _prepare_sqlite)
        try:
            with engine.connect() as connection:
                _run_alembic(connection)
        finally:
            engine.dispose()
        if made is not path:
            made.replace(path)


def upgrade_server(engine: "Engine") -> None:
    """Upgrade a database server under an advisory lock: ten replicas upgrade it once."""
    from sqlalchemy import text

    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:n)"), {"n": _ADVISORY_LOCK})
        connection.commit()
        try:
            if server_revision(connection) != HEAD:
                _run_alembic(connection)
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": _ADVISORY_LOCK})
            connection.commit()


def sqlite_revision(path: str) -> str | None:
    """The schema revision of a file, `None` if it is missing or empty.

    Raises:
        StoreError: it is not a SQLite database, or cannot be read.
    """
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return None
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
            return revision_of(connection, path)
    except sqlite3.DatabaseError as error:
        raise damaged(path, error) from error


def revision_of(connection: sqlite3.Connection, path: str) -> str | None:
    """The schema revision of an open SQLite database, `None` if it has no tables.

    Raises:
        StoreError: its tables are not mdl's.
    """
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if "alembic_version" not in names:
        if names:
            raise not_ours(path)
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def server_revision(connection: "Connection") -> str | None:
    """The schema revision of a database server, `None` if it has none."""
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.execute(text("SELECT version_num FROM alembic_version")).fetchone()
    return str(row[0]) if row else None


def known_revisions() -> list[str]:
    """Every migration of this version of mdl, oldest first."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_alembic_config())
    return [revision.revision for revision in reversed(list(script.walk_revisions()))]


def newer_version(where: str, revision: str) -> StoreError:
    return StoreError(
        f"The database {where} was made by a newer version of mdl.",
        why=f"its schema is {revision}; this version supports up to {HEAD}",
        next="Upgrade mdl, or set MDL_HOME to another folder. The database was not changed.",
    )


def damaged(path: str, error: Exception) -> StoreError:
    return StoreError(
        f"{path} is not a database, or is damaged.",
        why=str(error),
        next=f"Move it away, or restore a backup ({os.path.basename(path)}.backup-*) beside it.",
    )


def not_ours(path: str) -> StoreError:
    return StoreError(
        f"{path} is another program's database.",
        why="its tables are not mdl's",
        next="Set MDL_HOME to a folder for mdl alone.",
    )


def _alembic_config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "mdl:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _run_alembic(connection: "Connection") -> None:
    from alembic import command
    from alembic.runtime.migration import MigrationContext

    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known_revisions():
        raise newer_version(str(connection.engine.url.render_as_string()), current)
    config = _alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _make_private_folder(folder: "Path") -> None:
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)


def _backup(path: "Path") -> None:
    """Copy the database with SQLite's own backup, which includes the WAL."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    import shutil

    target = path.with_name(f"{path.name}.backup-{stamp}")
    if shutil.disk_usage(path.parent).free < path.stat().st_size * 2:
        raise StoreError(
            f"Not enough disk space to back up {path} before its upgrade.",
            next="Free some disk space; nothing was changed.",
        )
    target.touch(mode=0o600)
    with (
        contextlib.closing(sqlite3.connect(path)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


@contextlib.contextmanager
def _file_lock(path: "Path") -> Iterator[None]:
    """An exclusive lock; the kernel releases it when its owner dies."""
    import filelock

    try:
        with filelock.FileLock(path, timeout=_WAIT_SECONDS, mode=0o600):
            yield
    except filelock.Timeout as error:
        raise BusyError(
            "Another process is upgrading mdl's database.",
            why=f"it has had {path} locked for {_WAIT_SECONDS:.0f} s",
            next="Wait for it to finish, then try again.",
        ) from error
