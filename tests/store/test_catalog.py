"""What the catalogue keeps, on SQLite and on PostgreSQL."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mdl.errors import StoreError
from mdl.store import packaged
from mdl.store.catalog import Catalog
from mdl.store.database import SqliteDatabase
from mdl.store.rows import (
    PACKAGED,
    USER,
    BadMirror,
    CatalogSource,
    LocalMirror,
    MirrorRow,
    RepositoryRow,
)

ROW = MirrorRow("Org/Name", "bnb-4bit", "x/Name-bnb-4bit", "bnb-4bit", "plain", 0, "declared", "t")
TEST = CatalogSource("t", "1", "a test", "0" * 64, "")


def test_the_packaged_rows_are_there_with_their_provenance(catalog: Catalog) -> None:
    source, rows, bad = packaged.read_packaged()
    assert source.version == packaged.CATALOG_VERSION
    (held,) = [s for s in catalog.sources() if s["name"] == PACKAGED]
    assert (held["version"], held["licence"]) == (source.version, "Apache-2.0")
    assert held["rows"] == len(rows) == len(catalog.mirrors(source=PACKAGED))
    assert bad
    assert [catalog.about(mirror.repo_id.lower()).bad for mirror in bad] == list(bad)


def test_reimporting_replaces_only_the_sources_own_rows(catalog: Catalog) -> None:
    catalog.add([ROW._replace(repo_id="me/Name-bnb-4bit")])
    catalog.import_rows(TEST, [ROW, ROW._replace(repo_id="x/second-bnb-4bit", rank=1)])
    catalog.import_rows(TEST._replace(version="2"), [ROW])
    assert [(r.repo_id, r.source) for r in catalog.mirrors(name="org/name")] == [
        ("me/Name-bnb-4bit", USER),
        ("x/Name-bnb-4bit", "t"),
    ]
    assert catalog.version("t") == "2"


@pytest.mark.parametrize("limit", [1, 2, 5, 299, 300, 304, 305, 306])
def test_pages_contain_every_row_exactly_once(catalog: Catalog, limit: int) -> None:
    sizes = {"a/one": 1, "B/two": 2, "c/many": 300, "c/many-more": 1, "d/last": 1}
    given = [
        ROW._replace(name=name, repo_id=f"x/{i}-bnb-4bit", rank=i)
        for name, size in sizes.items()
        for i in range(size)
    ]
    catalog.import_rows(TEST, given)
    shown: list[MirrorRow] = []
    after: str | None = None
    while True:
        rows, after = catalog.page(limit, after=after, source="t")
        names = {row.name for row in rows}
        assert len(rows) >= limit or after is None
        assert {row.name for row in shown}.isdisjoint(names)
        assert len(rows) - sizes[rows[-1].name] < limit
        shown += rows
        if after is None:
            break
    assert shown == catalog.mirrors(source="t") and len(shown) == len(given)


def test_an_import_is_one_transaction(catalog: Catalog) -> None:
    catalog.import_rows(TEST, [ROW])
    broken = ROW._replace(repo_id="x/other", name=None)  # type: ignore[arg-type] # meant
    with pytest.raises((StoreError, AttributeError)):
        catalog.import_rows(TEST._replace(version="2"), [ROW._replace(rank=5), broken])
    no_name = ROW._replace(format=None)  # type: ignore[arg-type] # refused by the table itself
    with pytest.raises(StoreError):
        catalog.import_rows(TEST._replace(version="3"), [ROW._replace(rank=5), no_name])
    assert [(r.rank, catalog.version("t")) for r in catalog.mirrors(source="t")] == [(0, "1")]


def test_about_gives_everything_in_order(catalog: Catalog) -> None:
    bad = BadMirror("x/Name-bnb-4bit", "x/better", "16bit", "too big", "t")
    catalog.import_rows(TEST, [ROW, ROW._replace(repo_id="x/b-bnb-4bit", rank=1)], [bad])
    catalog.add([ROW._replace(repo_id="me/mine-bnb-4bit", rank=9)])
    now = time.time()
    own = RepositoryRow("Org/Name", "ok", "manual", "16bit", None, "c" * 40, "mit", now)
    second = own._replace(repo_id="x/b-bnb-4bit", gated="false", format="bnb-4bit")
    catalog.remember([("org/name", own), ("x/b-bnb-4bit", second)])
    catalog.record_local_mirror(LocalMirror("/q/1", "Org/Name", "c" * 40, "bnb-4bit", "s", now))
    about = catalog.about("org/name")
    assert (about.repository, about.spelling) == (own, "Org/Name")
    assert [row.repo_id for row, _, _ in about.mirrors] == [
        "me/mine-bnb-4bit", "x/Name-bnb-4bit", "x/b-bnb-4bit",
    ]  # fmt: skip
    assert [b for _, b, _ in about.mirrors] == [None, bad, None]
    assert [known for _, _, known in about.mirrors] == [None, None, second]
    assert [m.path for m in about.local] == ["/q/1"]
    assert catalog.about("x/name-bnb-4bit").quantized == "bnb-4bit"
    assert catalog.about("nobody/nothing").mirrors == ()


def test_about_many_is_about_each(catalog: Catalog) -> None:
    bad = BadMirror("x/Name-bnb-4bit", "x/better", "16bit", "too big", "t")
    catalog.import_rows(TEST, [ROW, ROW._replace(name="Org/Base")], [bad])
    known = RepositoryRow("Org/Base", "ok", "false", "16bit", None, "c" * 40, None, time.time())
    catalog.remember([("org/base", known)])
    keys = ["org/name", "x/name-bnb-4bit", "nobody/nothing", "org/base", "unsloth/gemma-2b"]
    together = catalog.about_many(keys)
    assert list(together) == keys
    assert together == {key: catalog.about(key) for key in keys}
    assert together["org/base"].repository == known
    assert together["nobody/nothing"].mirrors == ()


def test_near_names_are_few_in_a_large_catalogue(catalog: Catalog) -> None:
    catalog.import_rows(TEST, [ROW])
    assert "Org/Name" in catalog.names_near("meta/x")
    near = catalog.names_near("org/nome", few=10)
    assert "Org/Name" in near
    assert all(name.lower().startswith("org") for name in near)


def test_the_hubs_latest_word_counts(catalog: Catalog) -> None:
    late = RepositoryRow("Org/Name", "ok", "false", None, None, "b" * 40, None, 200.0)
    early = late._replace(gated="manual", checked_at=100.0, format="bnb-4bit")
    catalog.remember([("org/name", late)])
    catalog.remember([("org/name", early)])
    held = catalog.about("org/name").repository
    assert held is not None
    assert (held.gated, held.format) == ("false", None)


def test_a_check_marks_only_its_row(catalog: Catalog) -> None:
    other = ROW._replace(name="Org/Base")
    catalog.import_rows(TEST, [ROW, other])
    catalog.mark([("Org/Name", ROW.repo_id, "mismatch", "made from Base", None)])
    assert [(r.name, r.status) for r in catalog.mirrors(source="t")] == [
        ("Org/Base", None),
        ("Org/Name", "mismatch"),
    ]


def test_a_check_that_did_not_look_keeps_what_loads_a_row(catalog: Catalog) -> None:
    def loads() -> str | None:
        return catalog.mirrors(source="t")[0].runtimes

    catalog.import_rows(TEST, [ROW._replace(runtimes="unsloth")])
    catalog.add([ROW], TEST)
    catalog.mark([("Org/Name", ROW.repo_id, "ok", "", None)])
    assert (loads(), catalog.about(ROW.repo_id.lower()).runtimes) == ("unsloth", ("unsloth",))
    catalog.mark([("Org/Name", ROW.repo_id, "ok", "", "")])
    assert loads() is None


def test_history_is_newest_first_and_by_name(catalog: Catalog) -> None:
    for n in range(3):
        catalog.log("load", "Org/Name", "16bit", {
            "repo_id": f"x/{n}", "commit": None, "substituted": True, "rule": "r", "source": "s",
            "source_version": "1",
        })  # fmt: skip
    catalog.log("load", "Other/Name", "16bit", {
        "repo_id": "x/9", "commit": "c", "substituted": False, "rule": "r", "source": "s",
        "source_version": None,
    })  # fmt: skip
    assert [row["repo_id"] for row in catalog.history("ORG/NAME", limit=2)] == ["x/2", "x/1"]
    assert len(catalog.history()) == 4


def test_access_is_stored_per_token(catalog: Catalog) -> None:
    catalog.remember_access("org/name", "f1", "pending", "wait")
    catalog.remember_access("org/name", "f1", "granted", "")
    found = catalog.access("org/name", "f1")
    assert found is not None
    assert found[:2] == ("granted", "")
    assert catalog.access("org/name", "f2") is None


def test_concurrent_writers_lose_nothing(opened: Callable[[], Catalog]) -> None:
    catalogs = [opened(), opened()]

    def write(n: int) -> None:
        for i in range(25):
            catalogs[n].add([ROW._replace(name=f"Org/W{n}-{i}")])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalogs[0].mirrors(source=USER)) == 50


def test_a_failed_commit_ends_its_transaction(tmp_path: Path) -> None:
    """A service keeps its connections: the next transaction must find none begun."""
    (tmp_path / "x.db").touch()
    database = SqliteDatabase(str(tmp_path / "x.db"))
    with database.transaction() as writer:
        writer.run("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        writer.run("CREATE TABLE b (a REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(StoreError, match="failed"), database.transaction() as writer:
        writer.run("INSERT INTO b VALUES (1)")
    with database.transaction() as writer:
        writer.run("INSERT INTO a VALUES (2)")
    assert database.rows("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)") == [(1, 0)]
