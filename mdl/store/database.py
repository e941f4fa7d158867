"""One interface to SQLite and PostgreSQL.

SQLite is used through the standard library, because importing SQLAlchemy takes five times as long
as `mdl resolve`; PostgreSQL through SQLAlchemy and its driver. Both run the same statements: named
parameters (`:key`), `INSERT … ON CONFLICT`, text, integers and floats.
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
        """What the queries need of a database; safe to share between threads."""

        where: str
        writable: bool

        def rows(self, sql: str, params: "Params" = ...) -> "Sequence[Row]": ...

        def transaction(self) -> contextlib.AbstractContextManager["Writer"]: ...

        def analyze(self, table: str) -> None:
            """Update the planner's statistics after a bulk insert."""

        def close(self) -> None: ...

    class Writer(Protocol):
        """A transaction: committed at its end as a whole, or not at all."""

        def run(self, sql: str, params: "Params" = ...) -> int:
            """Run one statement; returns how many rows it changed."""

        def run_many(self, sql: str, params: "Sequence[Params]") -> None: ...

        def rows(self, sql: str, params: "Params" = ...) -> "Sequence[Row]": ...


Row = tuple[Any, ...]
Params = Mapping[str, Any]
NO_PARAMS: Params = {}
# Connections of one process: ten replicas stay below PostgreSQL's default limit of a hundred.
_READING, _WRITING = 6, 2


class SqliteDatabase:
    """A file: WAL, mode 0600, one connection per thread."""

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

    def analyze(self, table: str) -> None:
        """Nothing to do: SQLite's plans do not depend on statistics here."""

    def close(self) -> None:
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._local = threading.local()

    def __del__(self) -> None:
        # Nothing else closes it if opening failed halfway, or if it lives as long as its thread.
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
        # `immutable` reads from a read-only disk without the -shm file that WAL would create.
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
                next="Another mdl process is writing; try again shortly.",
            )
        if "readonly" in text:
            return StoreError(
                f"The database {self.where} is read-only.",
                why=text,
                next="Make it writable, or set MDL_HOME to a folder you can write to.",
            )
        if "full" in text:
            return StoreError(
                f"The disk is full: cannot write {self.where}.",
                why=text,
                next="Free some disk space; nothing was lost.",
            )
        if "malformed" in text or "not a database" in text:
            return upgrade.damaged(self._path, error)
        return StoreError(
            f"The database {self.where} failed.",
            why=text,
            next="Check that you may read and write it, or set MDL_HOME to another folder.",
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
    """A PostgreSQL server, for a team.

    Writing goes through SQLAlchemy. A look-up is one statement on the driver's own connection from
    SQLAlchemy's pool: SQLAlchemy's results cost three times as much, and a transaction or a ping
    would each be another round trip.
    """

    def __init__(self, reading: "Engine", writing: "Engine") -> None:
        self.where = reading.url.render_as_string(hide_password=True)
        self.writable = True
        self._reading, self._writing = reading, writing
        self._for_driver = functools.cache(self._compiled)

    def rows(self, sql: str, params: Params = NO_PARAMS) -> Sequence[Row]:
        import psycopg

        with self._translated_errors():
            statement = self._for_driver(sql)
            try:
                return self._look_up(statement, params)
            except psycopg.OperationalError:
                # The server restarted or hung up: every connection of the pool is dead.
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
        with self._translated_errors(), self._writing.begin() as connection:
            yield _ServerWriter(connection)

    def analyze(self, table: str) -> None:
        # Until it analyses the table by itself, a minute later, PostgreSQL may plan for an empty
        # one and read a million rows for each look-up.
        with self.transaction() as writer:
            writer.run(f"ANALYZE {table}")

    def close(self) -> None:
        self._reading.dispose()
        self._writing.dispose()

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
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
        f"The database {where} did not respond.",
        why=str(error).splitlines()[0],
        next="Check MDL_DATABASE_URL, and that the server is running.",
    )


def connect(settings: Settings) -> "Database":
    """Open the catalogue's database; create or upgrade it if needed.

    Raises:
        BusyError: another process is upgrading it and does not finish.
        ConfigError: `MDL_DATABASE_URL` is not a URL mdl can use.
        StoreError: it cannot be opened, is damaged, or was made by a newer mdl.
    """
    if settings.on_sqlite:
        return _connect_sqlite(settings.database_path)
    return _connect_server(str(settings.database_url))


def _connect_sqlite(path: str) -> "Database":
    if not path or os.path.isdir(path):
        raise ConfigError(
            f"The database {path or 'in MDL_DATABASE_URL'} is not a file.",
            next="Write sqlite:////home/me/mdl.db, for instance, or unset MDL_DATABASE_URL.",
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

    if not url.startswith(
        "postgresql"
    ):  # before SQLAlchemy looks for the driver of another database
        raise _no_url("it is neither PostgreSQL's nor SQLite's")
    try:
        writing = create_engine(url, pool_size=_WRITING, max_overflow=0, pool_pre_ping=True)
        reading = create_engine(
            url, pool_size=_READING, max_overflow=0, isolation_level="AUTOCOMMIT"
        )
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise _no_url(type(error).__name__) from error  # the text may hold the password
    if writing.dialect.driver != "psycopg":
        raise _no_url(f"mdl supports psycopg, not {writing.dialect.driver}")
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
    # The syntax of a SQLite URI; everything else in a path is literal.
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
