"""A checkpoint's tensors under the model's own names, by transformers' conversion mapping.

Checkpoints written by older versions, or laid out otherwise than the modules (one tensor an
expert, a fused projection), are renamed, split or merged as they are read. Which names and which
operations is transformers' knowledge (`transformers.conversion_mapping`, `core_model_loading`):
its rules and its operations are called here, on memory-mapped tensors. A renamed tensor stays the
checkpoint's own pages; a merged one is made anew.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from mdl.loader.build.unsuited import Unsuited


@dataclass(frozen=True)
class Named:
    """Tensors by the model's names, all names the model has, the checkpoint's names that are no
    weight of it, how many tensors were renamed and made anew, and transformers' rules that
    applied (for saving back)."""

    tensors: Mapping[str, Any]
    expected: frozenset[str]
    unused: tuple[str, ...]
    renamed: int
    merged: int
    rules: list[Any]

    @property
    def note(self) -> str:
        """What was done, for the report; empty where the names are the model's own."""
        done = {"renamed": self.renamed, "merged or split": self.merged}
        return ", ".join(f"{count} tensors {what}" for what, count in done.items() if count)


def name_tensors(model: Any, tensors: Mapping[str, Any]) -> Named:
    """Give the tensors of a checkpoint the names that `model` has for them.

    Parts of packed 4-bit weights (`….weight.absmax`) follow their weight.

    Raises:
        Unsuited: packed weights would have to be merged or split.
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
    ours = model.state_dict()
    prefix = model.base_model_prefix
    found: dict[str, Any] = {}
    unused = []
    made: dict[str, Any] = {}
    for name in sorted(tensors, key=dot_natural_key):
        new, pattern = rename_source_key(name, renamings, converters, prefix, ours)
        if new not in ours and name in ours:
            new, pattern = rename_source_key(name, [], [], prefix, ours)
        if packed_name(new) not in ours:
            unused.append(new)
        elif pattern is None:
            found[new] = tensors[name]
        elif packed_name(new) != new or tensors[name].dtype.is_floating_point is False:
            raise Unsuited("its packed weights need merging")
        else:
            group = made.setdefault(new, deepcopy(by_pattern[pattern]))
            value = tensors[name].to(ours[new].dtype) if new in ours else tensors[name]
            group.add_tensor(new, name, pattern, value)
    for new, group in made.items():
        for target, value in group.convert(new, model=model, config=model.config).items():
            found[target] = value[0] if isinstance(value, list) else value
    used = [rule for rule in rules if rule.was_used()]
    renamed = sum(1 for name in found if name not in tensors) - len(made)
    return Named(found, frozenset(ours), tuple(sorted(unused)), renamed, len(made), used)


def packed_name(name: str) -> str:
    """The weight that a part of a packed 4-bit weight belongs to; any other name as it is."""
    head, dot, _ = name.partition(".weight.")
    return f"{head}.weight" if dot else name
