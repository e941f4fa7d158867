"""Catalogue files that people write: a bad row is named, and nothing a database cannot hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from mdl.errors import UsageError
from mdl.resolver.catalog_file import HIGHEST_RANK, catalog_text, mirror_row, parse_catalog_file

ROW = {"name": "Org/Name", "repo_id": "us/Name-bnb-4bit"}


@pytest.mark.parametrize("kind", ["toml", "json", "csv"])
def test_exported_rows_are_read_back(kind: str) -> None:
    rows = [mirror_row(*ROW.values(), variant="dynamic", rank=HIGHEST_RANK),
            mirror_row(*ROW.values(), rank=-HIGHEST_RANK, relation="verified")]  # fmt: skip
    source, read = parse_catalog_file(catalog_text(rows, kind).encode(), Path(f"some/team.{kind}"))
    assert (read, source.name) == (rows, f"file:team.{kind}")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rank", 1.5, "'1.5' is not a rank"),
        ("rank", True, "'True' is not a rank"),
        ("rank", float("inf"), "'inf' is not a rank"),
        ("rank", 10**30, "is not a rank"),
        ("rank", [], "is not a rank"),
        ("variant", "a\0b", "is not a variant"),
        ("variant", "x" * 1000, "is not a variant"),
        ("variant", ["plain"], "is not a variant"),
        ("relation", ["declared"], "Unknown relation"),
        ("format", ["fp8"], "not a format"),
        ("weights", {"a": 1}, "not a format"),
        ("name", 5, "must be strings"),
    ],
)
def test_an_invalid_value_is_rejected(field: str, value: Any, words: str) -> None:
    data = json.dumps({"mirrors": [ROW, {**ROW, field: value}]}).encode()
    with pytest.raises(UsageError, match="row 2") as refused:
        parse_catalog_file(data, Path("rows.json"))
    assert words in refused.value.message
    assert refused.value.next


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("json", b"[" * 200_000),
        ("json", b"[" + b"1" * 5000 + b"]"),
        ("json", b"\xff\xfe"),
        ("toml", b"a = " + b"[" * 200_000),
        ("toml", b"a = " + b"1" * 5000),
        ("csv", b'name,repo_id\n"a/b'),
    ],
)
def test_an_unparsable_file_is_rejected(kind: str, data: bytes) -> None:
    with pytest.raises(UsageError, match=f"is not valid {kind.upper()}") as refused:
        parse_catalog_file(data, Path(f"rows.{kind}"))
    assert "Nothing was imported" in refused.value.next
