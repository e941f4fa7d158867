"""How sizes, ages and tables are written."""

import io

import pytest

from mdl.formatting import (
    branches,
    counted,
    human_ago,
    human_size,
    printable,
    shorten,
    shown_width,
    table,
)
from mdl.settings import parse_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (999_949, "999.9 KB"),
        (999_951, "1.0 MB"),
        (65_200_000_000, "65.2 GB"),
        (-1_500_000, "-1.5 MB"),
        (2.5e15, "2.5 PB"),
    ],
)
def test_a_size_has_one_decimal_and_its_unit(size: float | None, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize("size", [512, 1_500, 65_200_000_000, 3_100_000_000_000])
def test_a_size_that_is_shown_can_be_given_back(size: int) -> None:
    assert parse_size(human_size(size)) == size


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "just now"), (60, "1 minute ago"), (200_000, "2 days ago")]
)
def test_an_age_is_in_its_largest_unit(seconds: float, text: str) -> None:
    assert human_ago(1000.0, now=1000.0 + seconds) == text


def test_one_is_singular() -> None:
    assert [counted(n, "repository") for n in (0, 1, 2)] == [
        "0 repositories", "1 repository", "2 repositories",
    ]  # fmt: skip
    assert counted(1, "row") == "1 row" and counted(3, "day") == "3 days"


def test_a_table_aligns_its_columns_and_hides_control_characters() -> None:
    shown = table(["NAME", "SIZE"], [("a\x1b[31m", "1.0 KB"), ("b", "512 B")], right=["SIZE"])
    assert shown.splitlines() == ["NAME         SIZE", "a\\x1b[31m  1.0 KB", "b           512 B"]
    assert printable("a\nb") == "a\\nb"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
@pytest.mark.parametrize("name", ["org/" + "x" * 90, "模型" * 30, "e\u0301" * 50, "a b " * 20])
def test_no_row_is_wider_than_its_terminal(
    width: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", _Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    rows = [(name, "65.2 GB", "why " * 30), ("b", "1 B", "-")]
    lines = table(["NAME", "SIZE", "WHY"], rows, right=["SIZE"]).split("\n")
    assert len(lines) == 3 and max(map(shown_width, lines)) <= width
    assert width < 40 or "65.2 GB" in lines[1], "a number is whole, or gone with its column"


def test_a_name_keeps_both_ends_and_a_sentence_its_beginning() -> None:
    assert shorten("unsloth/Llama-3.1-8B-bnb-4bit", 20) == "unsloth/Ll…-bnb-4bit"
    assert shorten("used 200 days ago, longer than 90d", 20) == "used 200 days ago, …"
    assert shorten("模型模型模型", 7) == "模型…型"
    assert shorten("short", 5) == "short"


def test_branches_end_where_no_other_line_of_a_parent_follows() -> None:
    assert branches([0, 1, 2, 2, 1, 2, 0, 1]) == [
        "", "├── ", "│   ├── ", "│   └── ", "└── ", "    └── ", "", "└── "
    ]  # fmt: skip
