"""The error tree: each class has a code, an exit code, and a place in the drawing."""

import ast
import pickle
from pathlib import Path

import pytest

import mdl
from mdl import errors
from mdl.errors import MdlError


def tree(kind: type[MdlError]) -> list[type[MdlError]]:
    return [kind, *(below for each in kind.__subclasses__() for below in tree(each))]


def test_the_drawing_shows_every_class() -> None:
    assert errors.__doc__ is not None
    for kind in tree(MdlError):
        if kind.__module__ == "mdl.errors":
            assert kind.__name__ in errors.__doc__
            assert kind.__doc__


def test_exit_codes_are_the_promised_ones() -> None:
    codes = {k.__name__: k.exit_code for k in tree(MdlError)}
    assert codes["UsageError"] == codes["NameRefusedError"] == codes["ConfigError"] == 2
    assert (codes["NotFoundError"], codes["NoAccessError"], codes["OfflineError"]) == (3, 4, 5)
    assert (codes["VerificationError"], codes["BusyError"], codes["MdlError"]) == (6, 7, 1)


@pytest.mark.parametrize("kind", tree(MdlError))
def test_an_error_survives_a_process_boundary(kind: type[MdlError]) -> None:
    error = kind("it broke", why="because", next="mend it", details={"requested": "x"})
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.details) == (kind, str(error), error.details)
    assert "why:  because" in str(error)
    assert "next: mend it" in str(error)


def test_every_refusal_says_what_to_do_next() -> None:
    """A person is left with a sentence to act on; only the service's scrubbed 500 has none."""
    kinds = {kind.__name__ for kind in tree(MdlError)}
    silent = []
    for file in Path(mdl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in kinds
                and not {"next", None} & {keyword.arg for keyword in node.keywords}
            ):
                silent.append(f"{file.name}: {ast.unparse(node)}")
    assert sorted(silent) == ["middleware.py: MdlError('')"]
