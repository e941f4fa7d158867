"""One way to run SQL on two kinds of database.

SQLite is spoken to through the standard library, because a process that answers one name cannot
afford SQLAlchemy's import (half a second, against the tenth of a second the answer takes);
PostgreSQL through SQLAlchemy and its driver. Both take the same statements: named parameters
(`:key`), `INSERT … ON CONFLICT`, text, integers and floats.
"""

import contextlib
import functools
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mdl.errors import BusyError, ConfigError, MdlError, StoreError
from mdl.settings import Settings
from mdl.store import upgrade
from mdl.store.sqlite_connection import SelfClosing

if TYPE_CHECKING:
    from typing import Protocol

    from sqlalchemy import Connection, Engine

    class Database(Protocol):
        """What `mdl.store`'s queries need of a database; safe to share between threads."""

        where: str
        writable: bool

        def rows(self, sql: str, params: "Params" = ...) -> "Sequence[Row]": ...

        def transaction(self) -> contextlib.AbstractContextManager["Writer"]: ...

        def many_came(self, table: str) -> None:
            """Say that a table was filled, so that its rows are looked up well from now on."""

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
# Of one process to a server: ten replicas stay below the hundred that PostgreSQL takes unasked.
_READING, _WRITING = 6, 2


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
                connection.commit()
            except BaseException:
                connection.rollback()
                raise
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    def many_came(self, table: str) -> None:
        """Nothing to do: every statement here has one good plan, whatever the tables hold."""

    def close(self) -> None:
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._local = threading.local()

    def __del__(self) -> None:
        # One that was refused after it was opened, or lives as long as its thread: nobody else
        # would close it.
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
            factory=SelfClosing,
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
    """A database server: PostgreSQL for a team.

    Writing goes through SQLAlchemy. A look-up is one statement given to the driver, on a
    connection of SQLAlchemy's pool: its results cost three times as much as the driver's own, and
    a transaction or a question whether the connection still lives are further ways there and back.
    """

    def __init__(self, reading: "Engine", writing: "Engine") -> None:
        self.where = reading.url.render_as_string(hide_password=True)
        self.writable = True
        self._reading, self._writing = reading, writing
        self._for_driver = functools.cache(self._compiled)

    def rows(self, sql: str, params: Params = NO_PARAMS) -> Sequence[Row]:
        import psycopg

        with self._refused_as_ours():
            statement = self._for_driver(sql)
            try:
                return self._look_up(statement, params)
            except psycopg.OperationalError:
                # The server was started again, or hung up: no connection of the pool lives.
                self._reading.dispose()
                return self._look_up(statement, params)

    def _look_up(self, statement: str, params: Params) -> Sequence[Row]:
        with self._reading.connect() as connection:
            driver: Any = connection.connection.driver_connection
            found: Sequence[Row] = driver.execute(statement, params).fetchall()
            return found

    def _compiled(self, sql: str) -> str:
        from sqlalchemy import text

        return str(text(sql).compile(dialect=self._reading.dialect))

    @contextlib.contextmanager
    def transaction(self) -> Iterator["Writer"]:
        with self._refused_as_ours(), self._writing.begin() as connection:
            yield _ServerWriter(connection)

    def many_came(self, table: str) -> None:
        # Until it counts them by itself, a minute later, PostgreSQL may plan for an empty table
        # and read a million rows for each look-up.
        with self.transaction() as writer:
            writer.run(f"ANALYZE {table}")

    def close(self) -> None:
        self._reading.dispose()
        self._writing.dispose()

    @contextlib.contextmanager
    def _refused_as_ours(self) -> Iterator[None]:
        import psycopg
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, psycopg.Error) as error:
            raise server_refusal(self.where, error) from error


class _ServerWriter:
    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def run(self, sql: str, params: Params = NO_PARAMS) -> int:
        from sqlalchemy import text

        return self._connection.execute(text(sql), params).rowcount

    def run_many(self, sql: str, params: Sequence[Params]) -> None:
        from sqlalchemy import text

        if params:
            self._connection.execute(text(sql), params)

    def rows(self, sql: str, params: Params = NO_PARAMS) -> Sequence[Row]:
        from sqlalchemy import text

        return [tuple(row) for row in self._connection.execute(text(sql), params)]


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
        writing = create_engine(url, pool_size=_WRITING, max_overflow=0, pool_pre_ping=True)
        reading = create_engine(
            url, pool_size=_READING, max_overflow=0, isolation_level="AUTOCOMMIT"
        )
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise _no_url(type(error).__name__) from error  # the text may hold the password
    if writing.dialect.driver != "psycopg":
        raise _no_url(f"mdl speaks through psycopg, not {writing.dialect.driver}")
    try:
        upgrade.upgrade_server(writing)
    except SQLAlchemyError as error:
        raise server_refusal(writing.url.render_as_string(hide_password=True), error) from error
    return ServerDatabase(reading, writing)


def _no_url(why: str) -> ConfigError:
    return ConfigError(
        "MDL_DATABASE_URL is not a database URL mdl can use.",
        why=why,
        next="Write postgresql+psycopg://user:password@host/database, or unset it.",
    )


def _quoted(path: str) -> str:
    # What a SQLite URI treats as syntax; everything else in a path is taken as it stands.
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
