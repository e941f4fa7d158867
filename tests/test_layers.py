"""The rooms and their doors: who may import whom, imports inside functions included."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import mdl

HOME = Path(mdl.__file__).parent
BASE = {"errors", "settings", "formatting", "hub_http", "version", "lazy", "model_files", "folders"}
# Each room, and the rooms below it that it may know. `cli` and `service` stand above all of them.
BELOW: dict[str, set[str]] = {
    "store": set(),
    "formats": {"store"},
    "resolver": {"store", "formats"},
    "cachemgr": {"store", "formats"},
    "kernels": set(),
    "local_resolver": {"store", "formats", "resolver", "cachemgr"},
    "observe": {"store", "formats", "resolver", "cachemgr"},
    "loader": {
        "store",
        "formats",
        "resolver",
        "cachemgr",
        "kernels",
        "local_resolver",
        "observe",
    },
    "hub_server": {"store", "resolver", "cachemgr"},
    "service": {"store", "formats", "resolver", "cachemgr", "local_resolver", "hub_server"},
}


class Import(NamedTuple):
    """One imported name. `module` is the file's module where the name is a module of ours."""

    importer: str
    module: str
    name: str


def _name(file: Path) -> str:
    dotted = ".".join(file.relative_to(HOME.parent).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


FILES = {_name(file): file for file in HOME.rglob("*.py")}
PACKAGES = {name for name, file in FILES.items() if file.name == "__init__.py"}


def _for_the_type_checker(tree: ast.Module) -> set[ast.AST]:
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in node.body
        for inner in ast.walk(child)
    }


def imports_of(name: str, *, typing: bool = True) -> Iterator[Import]:
    tree = ast.parse(FILES[name].read_text())
    skipped = set() if typing else _for_the_type_checker(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(name, inner if inner in FILES else node.module, alias.name)
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, "")


OURS = [
    each for name in FILES for each in imports_of(name) if each.module.partition(".")[0] == "mdl"
]


def package_of(name: str) -> str:
    return name if name in PACKAGES else name.rpartition(".")[0]


@pytest.mark.parametrize("room", BELOW)
def test_a_room_knows_only_what_is_below_it(room: str) -> None:
    allowed = BASE | BELOW[room] | {room}
    upwards = [
        each
        for each in OURS
        if each.importer.split(".")[1:2] == [room]
        and each.module.split(".")[1:2] != []
        and each.module.split(".")[1] not in allowed
    ]
    assert upwards == []


def test_a_package_is_entered_by_its_door() -> None:
    reaching_in = [
        each
        for each in OURS
        if each.module not in PACKAGES
        and (room := package_of(each.module)) != package_of(each.importer)
        and not package_of(each.importer).startswith(room + ".")
    ]
    assert reaching_in == []


def test_no_import_goes_in_a_circle() -> None:
    """At run time, imports inside functions included; a door stands for all that it opens to."""
    arrows: dict[str, set[str]] = {name: set() for name in FILES}
    for name in FILES:
        for each in imports_of(name, typing=False):
            if each.module in PACKAGES and each.module in FILES:
                arrows[name].add(_defining(each.module, each.name))
            elif each.module in FILES:
                arrows[name].add(each.module)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in sorted(arrows[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(FILES):
        visit(name, ())


def _defining(package: str, name: str) -> str:
    """The module behind a door's name."""
    for node in ast.walk(ast.parse(FILES[package].read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module in FILES
            and name in {alias.name for alias in node.names}
        ):
            return _defining(node.module, name) if node.module in PACKAGES else node.module
    return package


@pytest.mark.parametrize("package", sorted(PACKAGES - {"mdl.migrations.versions"}))
def test_a_door_says_what_the_room_is_for_and_opens(package: str) -> None:
    tree = ast.parse(FILES[package].read_text())
    assert len(ast.get_docstring(tree) or "") > 20
    module = importlib.import_module(package)
    listed = [
        alias.asname or alias.name
        for node in _for_the_type_checker(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (node.module or "").startswith("mdl.")
    ]
    for name in listed:
        assert f"{package}.{name}" not in FILES, f"{name} is also a module of {package}"
        assert hasattr(module, name)
    if hasattr(module, "__getattr__"):
        with pytest.raises(AttributeError, match="no_such_name"):
            module.__getattr__("no_such_name")


def test_sql_is_spoken_in_the_store_alone() -> None:
    speakers = {
        name.split(".")[1]
        for name in FILES
        if {each.module.split(".")[0] for each in imports_of(name)}
        & {"sqlite3", "sqlalchemy", "alembic"}
    }
    assert speakers == {"store", "migrations"}
