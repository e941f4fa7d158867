"""One way to run SQL on two kinds of database.

SQLite is spoken to through the standard library, because a process that answers one name cannot
afford SQLAlchemy's import (half a second, against the tenth of a second the answer takes); any
other database through SQLAlchemy. Both take the same statements: named parameters (`:key`),
`INSERT … ON CONFLICT`, text, integers and floats.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mdl.errors import BusyError, ConfigError, MdlError, StoreError
from mdl.settings import Settings
from mdl.store import upgrade

if TYPE_CHECKING:
    from typing import Protocol

    from sqlalchemy import Connection, Engine

    class Database(Protocol):
        """What `mdl.store`'s queries need of a database; safe to share between threads."""

        where: str
        writable: bool

        def rows(self, sql: str, params: "Params" = ...) -> "Sequence[Row]": ...

        def transaction(self) -> contextlib.AbstractContextManager["Writer"]: ...

        def close(self) -> None: ...

    class Writer(Protocol):
        """A transaction: everything it ran is kept at its end, or nothing."""

        def run(self, sql: str, params: "Params" = ...) -> int:
            """Run one statement; how many rows it changed."""

        def run_many(self, sql: str, params: "Sequence[Params]") -> None: ...

        def rows(self, sql: str, params: "Params" = ...) -> "Sequence[Row]": ...


Row = tuple[Any, ...]
Params = Mapping[str, Any]
NO_PARAMS: Params = {}


class SqliteDatabase:
    """A file: WAL, mode 0600, one connection a thread."""

    def __init__(self, path: str) -> None:
        self.where = path
        folder = os.path.dirname(path) or "."
        self.writable = os.access(path, os.W_OK) and os.access(folder, os.W_OK)
        self._path = path
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._connection()

    def rows(self, sql: str, params: Params = NO_PARAMS) -> Sequence[Row]:
        try:
            return self._connection().execute(sql, params).fetchall()
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator["Writer"]:
        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield _SqliteWriter(connection)
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._local = threading.local()

    def __del__(self) -> None:
        # One that was refused after it was opened, or lives as long as its thread: nobody else
        # would close it, and Python 3.13 says so.
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self.close()

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            try:
                found = self._local.connection = self._connect()
            except sqlite3.Error as error:
                raise self._refusal(error) from error
            self._open.append(found)
        return found

    def revision(self) -> str | None:
        """The schema revision, `None` for a database without tables."""
        try:
            return upgrade.revision_of(self._connection(), self._path)
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    def _connect(self) -> sqlite3.Connection:
        # On a read-only disk `immutable` reads without the -shm file that WAL would create.
        mode = "rw" if self.writable else "ro&immutable=1"
        connection = sqlite3.connect(
            f"file:{_quoted(self._path)}?mode={mode}",
            uri=True,
            timeout=10,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA foreign_keys=ON")
        # WAL + NORMAL: a power cut can lose the last transactions, never the database.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA mmap_size=268435456")
        return connection

    def _refusal(self, error: sqlite3.Error) -> MdlError:
        text = str(error)
        if "locked" in text or "busy" in text:
            return BusyError(
                f"The database {self.where} is busy.",
                why=text,
                next="Another mdl process is writing; try again in a moment.",
            )
        if "readonly" in text:
            return StoreError(
                f"The database {self.where} is read-only.",
                why=text,
                next="Make it writable, or set MDL_HOME to a folder you can write to.",
            )
        if "full" in text:
            return StoreError(
                f"There is no room on the disk for {self.where}.",
                why=text,
                next="Free some disk space; what was there before is unchanged.",
            )
        if "malformed" in text or "not a database" in text:
            return upgrade.damaged(self._path, error)
        return StoreError(
            f"The database {self.where} refused a statement.",
            why=text,
            next="Check that it is a file you may read and write, or set MDL_HOME elsewhere.",
        )


class _SqliteWriter:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, sql: str, params: Params = NO_PARAMS) -> int:
        return self._connection.execute(sql, params).rowcount

    def run_many(self, sql: str, params: Sequence[Params]) -> None:
        self._connection.executemany(sql, params)

    def rows(self, sql: str, params: Params = NO_PARAMS) -> Sequence[Row]:
        return self._connection.execute(sql, params).fetchall()


class ServerDatabase:
    """A database server through SQLAlchemy: PostgreSQL for a team."""

    def __init__(self, engine: "Engine") -> None:
        self.where = engine.url.render_as_string(hide_password=True)
        self.writable = True
        self._engine = engine

    def rows(self, sql: str, params: Params = NO_PARAMS) -> Sequence[Row]:
        with self._connected() as connection:
            return _server_rows(connection, sql, params)

    @contextlib.contextmanager
    def transaction(self) -> Iterator["Writer"]:
        with self._connected() as connection, connection.begin():
            yield _ServerWriter(connection)

    def close(self) -> None:
        self._engine.dispose()

    @contextlib.contextmanager
    def _connected(self) -> Iterator["Connection"]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise server_refusal(self.where, error) from error


class _ServerWriter:
    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def run(self, sql: str, params: Params = NO_PARAMS) -> int:
        from sqlalchemy import text

        return self._connection.execute(text(sql), dict(params)).rowcount

    def run_many(self, sql: str, params: Sequence[Params]) -> None:
        from sqlalchemy import text

        if params:
            self._connection.execute(text(sql), [dict(p) for p in params])

    def rows(self, sql: str, params: Params = NO_PARAMS) -> Sequence[Row]:
        return _server_rows(self._connection, sql, params)


def _server_rows(connection: "Connection", sql: str, params: Params) -> Sequence[Row]:
    from sqlalchemy import text

    return [tuple(row) for row in connection.execute(text(sql), dict(params)).fetchall()]


def server_refusal(where: str, error: Exception) -> StoreError:
    return StoreError(
        f"The database {where} did not answer.",
        why=str(error).splitlines()[0],
        next="Check MDL_DATABASE_URL and that the server runs.",
    )


def connect(settings: Settings) -> "Database":
    """Open the catalogue's database, creating or upgrading it where needed.

    Raises:
        BusyError: another process is upgrading it and does not end.
        ConfigError: `MDL_DATABASE_URL` is no URL mdl can use.
        StoreError: it cannot be opened, is damaged, or of a newer version of mdl.
    """
    if settings.on_sqlite:
        return _connect_sqlite(settings.database_path)
    return _connect_server(str(settings.database_url))


def _connect_sqlite(path: str) -> "Database":
    if not path or os.path.isdir(path):
        raise ConfigError(
            f"The database {path or 'of MDL_DATABASE_URL'} is no file.",
            next="Name one, as in sqlite:////home/me/mdl.db, or unset MDL_DATABASE_URL.",
        )
    try:
        if not os.path.exists(path) or os.path.getsize(path) == 0:
            upgrade.upgrade_sqlite(path)
        database = SqliteDatabase(path)
        found = database.revision()
        if found == upgrade.HEAD:
            return database
        database.close()
        if found is not None and found > upgrade.HEAD:
            raise upgrade.newer_version(path, found)
        upgrade.upgrade_sqlite(path)
        return SqliteDatabase(path)
    except OSError as error:
        raise StoreError(
            f"The database {path} cannot be opened or created.",
            why=str(error),
            next="Set MDL_HOME to a folder you can write to.",
        ) from error


def _connect_server(url: str) -> "Database":
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    if not url.startswith("postgresql"):  # before the driver of another database is looked for
        raise _no_url("it is neither PostgreSQL's nor SQLite's")
    try:
        engine = create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=10)
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise _no_url(type(error).__name__) from error  # the text may hold the password
    try:
        upgrade.upgrade_server(engine)
    except SQLAlchemyError as error:
        raise server_refusal(engine.url.render_as_string(hide_password=True), error) from error
    return ServerDatabase(engine)


def _no_url(why: str) -> ConfigError:
    return ConfigError(
        "MDL_DATABASE_URL is not a database URL mdl can use.",
        why=why,
        next="Write postgresql+psycopg://user:password@host/database, or unset it.",
    )


def _quoted(path: str) -> str:
    # What a SQLite URI treats as syntax; everything else in a path is taken as it stands.
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
