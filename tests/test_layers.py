"""Who may import whom, function-level imports included: cli and service at the top, store below."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mdl

HOME = Path(mdl.__file__).parent
BELOW = {"errors", "settings", "text", "hubclient"}
MAY = {
    "store": BELOW,
    "resolver": BELOW | {"store"},
    "cachemgr": BELOW | {"store"},
    "kernels": {"errors"},
    "ask": BELOW | {"store", "resolver", "cachemgr", "service"},  # the service's client
    "loader": BELOW | {"store", "resolver", "cachemgr", "kernels", "ask"},
    "service": BELOW | {"store", "resolver", "cachemgr"},
}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("package", MAY)
def test_a_package_knows_only_what_is_below_it(package: str) -> None:
    place = HOME / package
    for file in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        of_ours = {name.split(".")[1] for name in imported(file) if name.startswith("mdl.")}
        assert of_ours - {package} <= MAY[package], file


def test_sql_is_spoken_in_the_store_alone() -> None:
    speakers = {
        file.relative_to(HOME).parts[0]
        for file in HOME.rglob("*.py")
        if {name.split(".")[0] for name in imported(file)} & {"sqlite3", "sqlalchemy", "alembic"}
    }
    assert speakers == {"store", "migrations"}
