"""The database over time: created, upgraded with a backup, refused when it is of the future."""

import os
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mdl.errors import ConfigError, StoreError
from mdl.settings import Settings
from mdl.store import packaged, upgrade
from mdl.store.catalog import open_catalog
from mdl.store.rows import MirrorRow


@pytest.fixture
def file(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "mdl", cache_root=tmp_path / "hub")


def test_head_is_what_alembic_says() -> None:
    assert upgrade.known_revisions()[-1] == upgrade.HEAD


def test_the_migrations_make_the_tables_the_code_describes(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import create_engine

    from mdl.store.tables import metadata

    path = tmp_path / "mdl.db"
    upgrade.upgrade_sqlite(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_new_file_is_private_and_in_wal_mode(file: Settings) -> None:
    open_catalog(file).database.close()
    path = Path(file.database_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_newer_database_is_rejected_and_left_alone(file: Settings) -> None:
    open_catalog(file).database.close()
    with closing(sqlite3.connect(file.database_path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = Path(file.database_path).read_bytes()
    with pytest.raises(StoreError, match="newer version of mdl"):
        open_catalog(file)
    assert Path(file.database_path).read_bytes() == before


def test_an_older_database_is_backed_up_then_upgraded(file: Settings) -> None:
    """A database from before the first migration: an empty version table and a person's note."""
    path = Path(file.database_path)
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("CREATE TABLE note (text TEXT)")
        connection.execute("INSERT INTO note VALUES ('keep me')")
        connection.execute("INSERT INTO alembic_version VALUES ('0000')")
    connection.close()
    # '0000' is no revision of ours: refused, but only after the backup was made.
    with pytest.raises(StoreError):
        open_catalog(file)
    (backup,) = path.parent.glob("mdl.db.backup-*")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as connection, connection:
        assert connection.execute("SELECT text FROM note").fetchone() == ("keep me",)
    connection.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM alembic_version")
    connection.close()
    catalog = open_catalog(file)
    assert catalog.version("packaged") == packaged.CATALOG_VERSION
    assert catalog.database.rows("SELECT text FROM note") == [("keep me",)]
    catalog.database.close()


def test_a_database_of_the_first_version_keeps_its_rows(settings: Settings) -> None:
    """Made by migration 0001 alone, with a person's mirror and a recorded resolution."""
    from alembic import command
    from sqlalchemy import create_engine, text

    Path(settings.home).mkdir()
    engine = create_engine(settings.database_url or f"sqlite:///{settings.database_path}")
    config = upgrade._alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in (
            "INSERT INTO sources VALUES ('user', '', 'mdl catalog add', '', '', 1.0, 1)",
            "INSERT INTO mirrors (key, name, wish, repo_id, repo_key, format, variant, rank,"
            " relation, source) VALUES ('org/name', 'Org/Name', 'bnb-4bit', 'X/Float', 'x/float',"
            " '16bit', '', 0, 'declared', 'user')",
            "INSERT INTO resolution_log (at, purpose, requested, key, wish, repo_id, substituted,"
            " rule, source) VALUES (2.0, 'load', 'Org/Name', 'org/name', 'bnb-4bit', 'X/Float', 1,"
            " 'override', 'user')",
        ):
            connection.execute(text(statement))
    engine.dispose()
    catalog = open_catalog(settings)
    (row,) = catalog.mirrors(source="user")
    assert row == MirrorRow("Org/Name", "bnb-4bit", "X/Float", "16bit", "", 0, "declared", "user",
                            source_version="")  # fmt: skip
    assert catalog.about("x/float").spelling == "X/Float"
    marked = catalog.about("unsloth/gpt-oss-20b-unsloth-bnb-4bit")
    assert (marked.quantized, marked.runtimes) == ("bnb-4bit", ("unsloth",))
    assert [entry["format"] for entry in catalog.history()] == ["bnb-4bit"]
    catalog.add([row])  # the renamed constraint still tells that it is the same row
    assert catalog.mirrors(source="user") == [row]
    catalog.database.close()
    if settings.on_sqlite:
        assert len(list(Path(settings.home).glob("mdl.db.backup-*"))) == 1


@pytest.mark.parametrize(
    "content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 4080]
)
def test_a_file_that_is_not_a_database_is_reported(file: Settings, content: bytes) -> None:
    file.home.mkdir()
    Path(file.database_path).write_bytes(content)
    with pytest.raises(StoreError, match="is not a database"):
        open_catalog(file)
    assert Path(file.database_path).read_bytes() == content


def test_another_programs_database_is_not_touched(file: Settings) -> None:
    file.home.mkdir()
    with closing(sqlite3.connect(file.database_path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StoreError, match="another program's"):
        open_catalog(file)


def test_an_older_packaged_edition_is_replaced_a_newer_one_kept(file: Settings) -> None:
    catalog = open_catalog(file)
    source, rows, _ = packaged.read_packaged()
    for version, expected in (("2025.1.1", packaged.CATALOG_VERSION), ("2999.1.1", "2999.1.1")):
        catalog.import_rows(source._replace(version=version), rows[:3])
        again = open_catalog(file)
        assert again.version("packaged") == expected
        again.database.close()
    catalog.database.close()


def test_a_read_only_disk_still_works(file: Settings) -> None:
    """On a read-only mount (in a mount namespace of its own: even root cannot write there)."""
    open_catalog(file).database.close()
    code = (
        "from pathlib import Path; from mdl.settings import Settings;"
        "from mdl.store.catalog import open_catalog;"
        f"c = open_catalog(Settings(Path({str(file.home)!r}), Path('x')));"
        "print(c.database.writable, len(c.about('unsloth/gemma-2b').mirrors) > 0)"
    )
    home = str(file.home)
    mount = f"mount --bind {home} {home} && mount -o remount,ro,bind {home} {home}"
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "-", sys.executable, "-c", code],
        capture_output=True, text=True,
    )  # fmt: skip
    if "unshare" in run.stderr or "mount:" in run.stderr:
        pytest.skip(f"no mount namespace here: {run.stderr.strip()}")
    assert (run.stdout, run.stderr) == ("False True\n", "")


def test_ten_processes_start_on_one_new_database(file: Settings) -> None:
    code = (
        "from pathlib import Path; from mdl.settings import Settings;"
        "from mdl.store.catalog import open_catalog;"
        f"c = open_catalog(Settings(Path({str(file.home)!r}), Path('x')));"
        "print(len(c.mirrors(source='packaged')))"
    )
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(
            lambda _: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True),
            range(6),
        ))  # fmt: skip
    assert [run.stderr for run in runs] == [""] * 6
    assert {run.stdout for run in runs} == {f"{len(packaged.read_packaged()[1])}\n"}


def test_killed_in_the_middle_of_an_import_nothing_is_half_there(file: Settings) -> None:
    catalog = open_catalog(file)
    row = MirrorRow("Org/A", "16bit", "x/old", "16bit", "", 0, "declared", "t")
    code = f"""
import os, sys
from pathlib import Path
from mdl.settings import Settings
from mdl.store.catalog import open_catalog
from mdl.store.rows import MirrorRow, CatalogSource
def rows():
    for n in range(2000):
        yield MirrorRow(f"Org/N{{n}}", "16bit", "x/new", "16bit", "", 0, "declared", "t")
catalog = open_catalog(Settings(Path({str(file.home)!r}), Path("x")))
with catalog.database.transaction() as writer:
    writer.run("DELETE FROM mirrors WHERE source = 't'")
    print("deleted", flush=True)
    sys.stdin.read()
"""
    from mdl.store.rows import CatalogSource

    catalog.import_rows(CatalogSource("t", "1", "", "", ""), [row])
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "deleted\n"
    process.kill()
    process.communicate()
    assert [r.repo_id for r in catalog.mirrors(source="t")] == ["x/old"]
    catalog.add([row._replace(name="Org/B")])  # the lock died with its holder
    catalog.database.close()


def test_an_unsupported_url_is_rejected_without_showing_its_password(tmp_path: Path) -> None:
    for url in ("mysql://me:hunter2@host/db", "not a url", "postgresql+nosuch://me:hunter2@h/d"):
        settings = Settings(home=tmp_path, cache_root=tmp_path, database_url=url)
        with pytest.raises((ConfigError, StoreError, ModuleNotFoundError)) as caught:
            open_catalog(settings)
        assert "hunter2" not in str(caught.value)


@pytest.mark.postgres
def test_replicas_starting_at_once_upgrade_a_server_once(
    empty_postgres: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, cache_root=tmp_path, database_url=empty_postgres)
    with ThreadPoolExecutor(10) as pool:
        catalogs = list(pool.map(lambda _: open_catalog(settings), range(10)))
    counts = {len(c.mirrors(source="packaged")) for c in catalogs}
    assert counts == {len(packaged.read_packaged()[1])}
    for catalog in catalogs:
        catalog.database.close()


@pytest.mark.postgres
def test_an_unreachable_server_is_a_clear_error(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://me:hunter2@/db?host={tmp_path}"
    settings = Settings(home=tmp_path, cache_root=tmp_path, database_url=url)
    with pytest.raises(StoreError, match="did not respond") as caught:
        open_catalog(settings)
    assert "hunter2" not in str(caught.value)
    assert os.fspath(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "url", ["mysql://me:secret@host/x", "sqlite:///", "x", "oracle://me:secret@host"]
)
def test_an_unsupported_database_is_rejected(tmp_path: Path, url: str) -> None:
    """Before its driver is looked for, and without its password in the refusal."""
    with pytest.raises(ConfigError, match="MDL_DATABASE_URL") as refused:
        open_catalog(Settings(tmp_path, tmp_path, database_url=url))
    assert "secret" not in str(refused.value)
    assert refused.value.next


def test_a_folder_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "mdl.db").mkdir()
    with pytest.raises(ConfigError, match="not a file"):
        open_catalog(Settings(tmp_path, tmp_path))
