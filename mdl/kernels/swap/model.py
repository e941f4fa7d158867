"""Put kernels into a model, and take them out again.

`apply` changes the class of modules of exactly known types and nothing else: parameters, buffers,
hooks and state-dict keys stay, so it can be done before or after PEFT, and `remove` undoes it.
"""

import types
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from mdl.errors import UsageError
from mdl.kernels.swap.decoder_layer import norm_after_sum, norm_name
from mdl.kernels.swap.forwards import activation_kind, packed_weight, single_adapter
from mdl.kernels.swap.registry import OPERATIONS, Operation, class_for, rule_for
from mdl.kernels.swap.subclass import original_of, path_of

_LOOKS_LIKE = {
    "RMSNorm": "rms_norm",
    "MLP": "glu",
    "Attention": "rope",
    "ForCausalLM": "cross_entropy",
    "ForConditionalGeneration": "cross_entropy",
}


@dataclass(frozen=True)
class Swapped:
    """A module that runs our kernel. name: its place in the model; '' for the model itself."""

    name: str
    kind: str
    operation: str


@dataclass(frozen=True)
class Left:
    """A module that could have had a kernel and keeps its own code, and why."""

    name: str
    kind: str
    operation: str
    why: str


@dataclass(frozen=True)
class Applied:
    """What `apply` did: all modules with a kernel, and all that could have had one."""

    swapped: tuple[Swapped, ...]
    left: tuple[Left, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Modules with a kernel, by operation."""
        return dict(Counter(one.operation for one in self.swapped))

    def to_json(self) -> dict[str, Any]:
        """Counts by operation and, for what was left, by operation and reason."""
        why = Counter((one.operation, one.kind, one.why) for one in self.left)
        return {
            "swapped": self.counts,
            "left": [
                {"operation": operation, "kind": kind, "why": reason, "count": count}
                for (operation, kind, reason), count in sorted(why.items())
            ],
        }

    def __str__(self) -> str:
        lines = [f"{count} x {operation}" for operation, count in sorted(self.counts.items())]
        for one in self.to_json()["left"]:
            lines.append(f"left {one['count']} x {one['kind']} ({one['operation']}): {one['why']}")
        return "\n".join(lines) or "nothing to swap"


def ls() -> tuple[Operation, ...]:
    """The operations `apply` knows, by the names `only` and `skip` take."""
    return OPERATIONS


def apply(
    model: torch.nn.Module,
    only: Collection[str] | str | None = None,
    skip: Collection[str] | str | None = None,
    *,
    refuse: Callable[[torch.nn.Module, str], str] | None = None,
) -> Applied:
    """Run our kernels in `model` wherever its modules are of a known type. In place.

    Works on any model, quantized or exact, on any device: where there is no GPU the torch
    references compute the same. A module that already has its kernel keeps it.

    Args:
        only: names of the operations to put in (see `ls`); default all.
        skip: names of operations to leave out.
        refuse: why a module must not have the kernel of an operation; '' if it may.

    Raises:
        UsageError: an operation that does not exist, or both `only` and `skip`.
    """
    swapped: list[Swapped] = []
    left: list[Left] = []
    for one in candidates(model, chosen_operations(only, skip)):
        module, why = one.module, one.why
        kind = path_of(type(module)).rpartition(".")[2]
        if not why and original_of(type(module)) is None:
            why = refuse(module, one.operation) if refuse is not None else ""
            if not why and not _swap(module):
                why = "this version of its library has another forward"
        if why:
            left.append(Left(one.name, kind, one.operation, why))
        else:
            swapped.append(Swapped(one.name, kind, one.operation))
    return Applied(tuple(swapped), tuple(left))


class Candidate(NamedTuple):
    """A module that could have a kernel. why: what keeps it from having one; '' for nothing."""

    name: str
    module: torch.nn.Module
    operation: str
    why: str


def candidates(model: torch.nn.Module, wanted: Collection[str]) -> Iterator[Candidate]:
    """Every module that has, may have or could have had a kernel."""
    for name, module in model.named_modules():
        rule = rule_for(type(module))
        if rule is None:
            operation, why = _unknown(module), "no kernel knows this module type"
            if operation not in wanted:
                continue
        elif original_of(type(module)) is not None:
            operation, why = rule.operation, ""
        else:
            operation = rule.operation
            why = "not asked for" if operation not in wanted else _unfit(module, operation)
        yield Candidate(name, module, operation, why)


def remove(model: torch.nn.Module) -> int:
    """Give every module its own class back. Returns how many there were."""
    count = 0
    for module in model.modules():
        original = original_of(type(module))
        if original is not None:
            _change(module, original)
            count += 1
    return count


def chosen_operations(
    only: Collection[str] | str | None, skip: Collection[str] | str | None
) -> frozenset[str]:
    """The operations that `only` or `skip` leave.

    Raises:
        UsageError: an operation that does not exist, or both are given.
    """
    known = [one.name for one in OPERATIONS]
    if only is not None and skip is not None:
        raise UsageError("`only` and `skip` were both given.", next="Leave one of them out.")
    named = _names(only if only is not None else skip or ())
    unknown = [name for name in named if name not in known]
    if unknown:
        raise UsageError(
            f"No operation is called {unknown[0]!r}.", next=f"There are {', '.join(known)}."
        )
    return frozenset(named) if only is not None else frozenset(known) - frozenset(named)


def _names(value: Collection[str] | str) -> Iterable[str]:
    return [value] if isinstance(value, str) else list(value)


def _unknown(module: torch.nn.Module) -> str:
    """The operation a module of an unknown transformers type seems to do, '' for none."""
    if not type(module).__module__.startswith("transformers.models."):
        return ""
    name = type(module).__name__
    return next((one for end, one in _LOOKS_LIKE.items() if name.endswith(end)), "")


def _unfit(module: Any, operation: str) -> str:
    """Why a module of a known type cannot have its kernel; '' if it can."""
    if operation == "linear_4bit":
        if getattr(module.weight, "quant_state", None) is None:
            return "its weight is not quantized yet"
        if packed_weight(module) is None:
            return "its weight is packed in another layout"
    if operation == "lora_4bit" and single_adapter(module) is None:
        return "several, merged or unusual adapters: PEFT's own code runs them"
    if operation == "layer_norm" and (module.weight is None or len(module.normalized_shape) != 1):
        return "it normalises several dimensions, or has no weight"
    if operation == "add_rms_norm":
        norm = type(norm_after_sum(module))
        family = path_of(type(module)).rpartition(".")[0]
        if path_of(norm) != f"{family}.{norm_name(type(module))}":
            return f"its norm is a {norm.__name__}"
    if operation == "glu":
        activation = getattr(module, "act_fn", None) or getattr(module, "activation_fn", None)
        if activation_kind(activation) is None:
            return f"its activation is {type(activation).__name__}"
    return ""


def _swap(module: torch.nn.Module) -> bool:
    kind: Any = type(module)  # mypy holds a Module type for unhashable
    new = class_for(kind)
    if new is None:
        return False
    _change(module, new)
    return True


def _change(module: Any, new: type) -> None:
    # accelerate's hooks put a forward on the instance and keep the class's as `_old_forward`.
    kept = module.__dict__.get("_old_forward")
    if getattr(kept, "__func__", None) is type(module).forward:
        module._old_forward = types.MethodType(new.forward, module)  # type: ignore[attr-defined] # a Module
    module.__class__ = new
