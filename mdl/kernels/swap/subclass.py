"""Subclasses of other libraries' module types, made on demand, one for each type.

A subclass adds only a `forward` and keeps its original's name, which transformers writes into
`config.json`.
"""

import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any


def path_of(kind: type) -> str:
    """`module.QualifiedName` of a type; of the original, for a subclass made here."""
    origin = original_of(kind) or kind
    return f"{origin.__module__}.{origin.__qualname__}"


def original_of(kind: type) -> type | None:
    """The type a subclass made here stands in for; None for any other type."""
    found: type | None = vars(kind).get("mdl_original")
    return found


def subclass(original: type, forward: Callable[..., Any], module: str) -> type:
    """A subclass of `original` with another forward, under the original's signature.

    Args:
        module: the module in which pickle finds the class again, by the original's path with
            colons for dots; its `__getattr__` makes the class in another process.
    """
    method = functools.wraps(original.forward)(forward)  # type: ignore[attr-defined] # a Module
    members = {
        "forward": method,
        "mdl_original": original,
        "__module__": module,
        "__qualname__": path_of(original).replace(".", ":"),
        "__doc__": original.__doc__,
    }
    return type(original.__name__, (original,), members)


def with_globals(function: Callable[..., Any], **replaced: Any) -> Callable[..., Any] | None:
    """A copy of a plain function that finds other objects under some of its global names.

    transformers' attention calls a module-level `apply_rotary_pos_emb`. Replacing that name in its
    module would change every model of the process; this changes the one function. None if it is not
    a plain function (renamed keywords aside), or does not use the names.
    """
    plain = inspect.unwrap(function, stop=lambda outer: not _renames_keywords(outer))
    if not isinstance(plain, types.FunctionType) or hasattr(plain, "__wrapped__"):
        return None
    if not set(replaced) <= set(plain.__code__.co_names):
        return None
    # torch.compile looks a function's globals up through a module of that name.
    name = f"{__name__}.globals_of_{plain.__module__.replace('.', '_')}"
    module = sys.modules.get(name)
    if module is None:
        module = types.ModuleType(name)
        module.__dict__.update({**plain.__globals__, **replaced, "__name__": name})
        sys.modules[name] = module
    return with_renames(_copy(plain, module.__dict__, plain.__closure__), function)


def with_renames(function: Callable[..., Any], like: Any) -> Callable[..., Any]:
    """`function` inside copies of the `deprecate_kwarg` decorators that `like` has.

    transformers renames a keyword by such a decorator, which hands the old name on as the new one.
    """
    inner = getattr(like, "__wrapped__", None)
    if inner is None:
        return function
    function = with_renames(function, inner)
    if not _renames_keywords(like):
        return function
    cells = [
        types.CellType(function) if cell.cell_contents is inner else cell
        for cell in like.__closure__
    ]
    return functools.wraps(function)(_copy(like, like.__globals__, tuple(cells)))


def _renames_keywords(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_qualname.startswith("deprecate_kwarg.")


def _copy(function: Any, names: dict[str, Any], closure: Any) -> types.FunctionType:
    copy = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, closure
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def signature_of(kind: type) -> inspect.Signature:
    """The signature of a module type's own forward."""
    return inspect.signature(kind.forward)  # type: ignore[attr-defined] # a Module


def bare(module: Any) -> bool:
    """Whether calling a module runs its class's forward and nothing else.

    Where it does not, a forward that reads the module's parameters itself would pass by a hook:
    somebody's measurement, or a weight that is brought from elsewhere for the call.
    """
    return "forward" not in module.__dict__ and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
