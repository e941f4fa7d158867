"""A checkpoint's tensors under the model's names, by transformers' conversion mapping.

Checkpoints of older versions, or with another layout than the modules (one tensor an expert, a
fused projection), are renamed, split or merged when they are read. transformers' own rules and
operations (`transformers.conversion_mapping`, `core_model_loading`) run here on memory-mapped
tensors: a renamed tensor still is the mapped pages; a merged one is new.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any


class CannotMapError(Exception):
    """A checkpoint that cannot be built from mapped tensors; the message says why."""


@dataclass(frozen=True)
class NamedTensors:
    """The result of naming a checkpoint's tensors.

    `tensors` has them by the model's names, `expected` all names of the model, `unused` the
    tensors it has no place for; `renamed` and `merged` are counts, `rules` the rules of
    transformers that applied, which saving reverses.
    """

    tensors: Mapping[str, Any]
    expected: frozenset[str]
    unused: tuple[str, ...]
    renamed: int
    merged: int
    rules: list[Any]

    @property
    def note(self) -> str:
        """What was done, for the report; empty if the names were the model's own."""
        done = {"renamed": self.renamed, "merged or split": self.merged}
        return ", ".join(f"{count} tensors {what}" for what, count in done.items() if count)


def name_tensors(model: Any, tensors: Mapping[str, Any]) -> NamedTensors:
    """Give a checkpoint's tensors the names that `model` has for them.

    Parts of packed 4-bit weights (`….weight.absmax`) go with their weight.

    Raises:
        CannotMapError: packed weights would have to be merged or split.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {p: converter for converter in converters for p in converter.source_patterns}
    expected = model.state_dict()
    prefix = model.base_model_prefix
    named: dict[str, Any] = {}
    unused = []
    groups: dict[str, Any] = {}
    for name in sorted(tensors, key=dot_natural_key):
        new, pattern = rename_source_key(name, renamings, converters, prefix, expected)
        if new not in expected and name in expected:
            new, pattern = rename_source_key(name, [], [], prefix, expected)
        if packed_name(new) not in expected:
            unused.append(new)
        elif pattern is None:
            named[new] = tensors[name]
        elif packed_name(new) != new or tensors[name].dtype.is_floating_point is False:
            raise CannotMapError("its packed weights need merging")
        else:
            group = groups.setdefault(new, deepcopy(by_pattern[pattern]))
            value = tensors[name].to(expected[new].dtype) if new in expected else tensors[name]
            group.add_tensor(new, name, pattern, value)
    for new, group in groups.items():
        for target, value in group.convert(new, model=model, config=model.config).items():
            named[target] = value[0] if isinstance(value, list) else value
    used = [rule for rule in rules if rule.was_used()]
    renamed = sum(1 for name in named if name not in tensors) - len(groups)
    names = frozenset(expected)
    return NamedTensors(named, names, tuple(sorted(unused)), renamed, len(groups), used)


def packed_name(name: str) -> str:
    """The weight that a part of a packed 4-bit weight belongs to; any other name unchanged."""
    head, dot, _ = name.partition(".weight.")
    return f"{head}.weight" if dot else name
