"""Recognising published repositories: their real files and configurations, written down anew.

`published.jsonl` has one repository a line, as `mdl inspect --from-json` reads it; `is` holds what
it is: `format`, and where they matter `variants` (in any order), `first` (the default), `bits`,
`also`, `method`, `files` (how many a variant has), `projectors`, `against` (words that the
contradictions must have; an empty list means that there are none).
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mdl.formats import Format, description_from_json, recognize

PUBLISHED = [
    json.loads(line)
    for line in Path(__file__).with_name("published.jsonl").read_text().splitlines()
]


def judged(row: dict[str, Any]) -> Format:
    return recognize(description_from_json({k: v for k, v in row.items() if k != "is"}))


@pytest.mark.parametrize("row", PUBLISHED, ids=[row["name"] for row in PUBLISHED])
def test_a_published_repository_is_what_it_is(row: dict[str, Any]) -> None:
    found, wanted = judged(row), row["is"]
    body = found.to_json()
    assert body["format"] == wanted["format"]
    assert body["evidence"]
    for ours, theirs in (("also", "also"), ("bits_per_weight", "bits"), ("method", "method")):
        if theirs in wanted:
            assert body[ours] == wanted[theirs]
    if "variants" in wanted:
        assert sorted(body["variants"]) == sorted(wanted["variants"])
    if "first" in wanted:
        assert body["variants"][0] == wanted["first"]
    if "runtimes" in wanted:
        assert body["runtimes"] == wanted["runtimes"]
    if "projectors" in wanted:
        assert sorted(each["variant"] for each in body["projectors"]) == wanted["projectors"]
    for runtime in wanted.get("not_in", ()):
        assert runtime not in body["runtimes"]
    for name, count in wanted.get("files", {}).items():
        variant = found.variant(name)
        assert variant is not None and len(variant.files) == count
    if wanted.get("against") == []:
        assert body["contradictions"] == []
    for word in wanted.get("against", ()):
        assert any(word in line for line in body["contradictions"])


def test_enough_repositories_are_written_down() -> None:
    assert len(PUBLISHED) >= 120


@pytest.mark.parametrize("seed", range(3))
def test_no_order_decides(seed: int) -> None:
    shuffle = random.Random(seed).shuffle
    for row in PUBLISHED:
        mixed = {**row}
        for key in ("files", "tags", "branches"):
            mixed[key] = list(row.get(key, ()))
            shuffle(mixed[key])
        for key in ("config", "other_files", "headers"):
            mixed[key] = _shuffled(row[key], shuffle) if key in row else None
        assert judged(mixed) == judged(row), row["name"]


def _shuffled(value: Any, shuffle: Any) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    shuffle(keys)
    return {key: _shuffled(value[key], shuffle) for key in keys}
