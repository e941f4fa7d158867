"""The result of a load: model, tokenizer and report."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mdl.loader.report import Report


@dataclass(frozen=True)
class Loaded:
    """A loaded model; unpacks into `model, tokenizer`.

    `tokenizer` is the processor of a vision model, and None if the repository has none.
    """

    model: Any
    tokenizer: Any
    report: Report

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return (self.model, self.tokenizer)[index]
