"""How sizes, ages and tables are written."""

import pytest

from mdl.formatting import human_ago, human_size, printable, table
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


def test_a_table_aligns_its_columns_and_hides_control_characters() -> None:
    shown = table(["NAME", "SIZE"], [("a\x1b[31m", "1.0 KB"), ("b", "512 B")], right=["SIZE"])
    assert shown.splitlines() == ["NAME         SIZE", "a\\x1b[31m  1.0 KB", "b           512 B"]
    assert printable("a\nb") == "a\\nb"
