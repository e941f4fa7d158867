"""The table of odd but real repositories: a builder each, and where it was seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """One repository of the corpus.

    Attributes:
        seen: the repository, issue or library source where this shape was met.
        build: writes the repository's files into a folder that is there and empty.
        auto: transformers' (or PEFT's) class that a user would load it with.
        options: keyword arguments of `mdl.load`; `theirs`: those of the reference.
        mdl: `same` as the reference (the same model, or a refusal where it refuses), or `refuses`
            or `loads` whatever the reference does; `because` then says why.
        says: a pattern that mdl's refusal, or else one of its warnings, matches.
        format: what the repository's weights are, as the resolver calls it; None where it cannot
            be known from the names and `config.json`.
        needs: files the reference does not open and users of the repository do.
    """

    name: str
    seen: str
    build: Callable[[Path], None]
    auto: str = "AutoModelForCausalLM"
    options: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    mdl: str = "same"
    because: str = ""
    says: str = ""
    format: str | None = "16bit"
    needs: tuple[str, ...] = ()


SHAPES: dict[str, Shape] = {}


def shape(seen: str, **fields: Any) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Add a builder to the corpus under its own name."""

    def add(build: Callable[[Path], None]) -> Callable[[Path], None]:
        assert build.__name__ not in SHAPES
        SHAPES[build.__name__] = Shape(build.__name__, seen, build, **fields)
        return build

    return add
