"""mdl: what will this model name give me, is it here, give it to me.

>>> import mdl
>>> mdl.resolve("meta-llama/Llama-3.1-8B-Instruct", format="bnb-4bit")   # what, and why
>>> model, tokenizer = mdl.load("Qwen/Qwen2.5-0.5B-Instruct", load_in_4bit=True)
>>> from mdl import FastLanguageModel                                    # Unsloth's call, as it is

Importing mdl costs no torch, transformers, SQLAlchemy or huggingface_hub: each name below is
imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mdl.version import __version__

if TYPE_CHECKING:
    from mdl.errors import MdlError
    from mdl.loader import FastLanguageModel, FastVisionModel, load, plan
    from mdl.local_resolver import resolve
    from mdl.resolver import Resolution, ResolveOptions
    from mdl.settings import Settings, load_settings


__all__ = [
    "FastLanguageModel",
    "FastVisionModel",
    "MdlError",
    "Resolution",
    "ResolveOptions",
    "Settings",
    "load",
    "load_settings",
    "plan",
    "resolve",
]

_HOME = {
    "FastLanguageModel": "mdl.loader",
    "FastVisionModel": "mdl.loader",
    "MdlError": "mdl.errors",
    "Resolution": "mdl.resolver",
    "Settings": "mdl.settings",
    "ResolveOptions": "mdl.resolver",
    "load": "mdl.loader",
    "load_settings": "mdl.settings",
    "plan": "mdl.loader",
    "resolve": "mdl.local_resolver",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mdl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
