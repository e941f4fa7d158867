"""Subclasses of other libraries' module types, made on demand, one for each type.

A subclass adds nothing but a `forward`, keeps its original's name (transformers writes it into
`config.json`), and is found again by pickle under this module, in another process too.
"""

import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

from mdl.errors import MdlError


def path_of(kind: type) -> str:
    """`module.QualifiedName` of a type; of the original, for a subclass made here."""
    origin = original_of(kind) or kind
    return f"{origin.__module__}.{origin.__qualname__}"


def original_of(kind: type) -> type | None:
    """The type a subclass made here stands in for; None for any other type."""
    found: type | None = vars(kind).get("mdl_original")
    return found


def subclass(original: type, forward: Callable[..., Any]) -> type:
    """A subclass of `original` with another forward, which gets the signature of the first."""
    method = functools.wraps(original.forward)(forward)  # type: ignore[attr-defined] # a Module
    members = {
        "forward": method,
        "mdl_original": original,
        "__module__": __name__,
        "__qualname__": path_of(original).replace(".", ":"),
        "__doc__": original.__doc__,
    }
    return type(original.__name__, (original,), members)


def with_globals(function: Callable[..., Any], **replaced: Any) -> Callable[..., Any] | None:
    """A copy of a plain function that finds other objects under some of its global names.

    transformers' attention calls a module-level `apply_rotary_pos_emb`. Replacing that name in its
    module would change every model of the process; this changes the one function. None if it is no
    plain function, or does not use the names.
    """
    if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
        return None
    if not set(replaced) <= set(function.__code__.co_names):
        return None
    # torch.compile looks a function's globals up through a module of that name.
    name = f"{__name__}.globals_of_{function.__module__.replace('.', '_')}"
    module = sys.modules.get(name)
    if module is None:
        module = types.ModuleType(name)
        module.__dict__.update({**function.__globals__, **replaced, "__name__": name})
        sys.modules[name] = module
    copy = types.FunctionType(
        function.__code__,
        module.__dict__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
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


def __getattr__(name: str) -> Any:
    # Unpickling asks this module for "transformers:models:...:LlamaRMSNorm".
    if ":" not in name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mdl.kernels.swap.registry import class_for

    module, _, kind = name.replace(":", ".").rpartition(".")
    made = class_for(getattr(importlib.import_module(module), kind))
    if made is None:
        raise MdlError(
            f"The pickled module type {kind} has no kernel in this version of mdl.",
            next="Save the model with save_pretrained, which does not pickle classes.",
        )
    return made
