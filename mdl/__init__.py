"""Resolve, cache and load Hugging Face models without surprises.

>>> import mdl
>>> mdl.resolve("meta-llama/Llama-3.1-8B-Instruct", format="bnb-4bit")   # what will I get, and why
>>> mdl.where("Qwen/Qwen2.5-0.5B-Instruct").path                         # is it here
>>> mdl.pull("Qwen/Qwen2.5-0.5B-Instruct").path                          # download it
>>> model, tokenizer = mdl.load("Qwen/Qwen2.5-0.5B-Instruct", load_in_4bit=True)
>>> from mdl import FastLanguageModel                                    # Unsloth's calls

Importing mdl imports no torch, transformers, SQLAlchemy or huggingface_hub: each name below is
imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mdl.version import __version__

if TYPE_CHECKING:
    from mdl.cachemgr import Cache
    from mdl.errors import MdlError
    from mdl.loader import (
        FastLanguageModel,
        FastModel,
        FastVisionModel,
        is_bf16_supported,
        is_bfloat16_supported,
        load,
        plan,
        pull,
    )
    from mdl.loader import verify_target as verify
    from mdl.local_resolver import access, lock, resolve, where
    from mdl.observe import load_ipython_extension, watch
    from mdl.resolver import Resolution, ResolveOptions
    from mdl.settings import Settings, load_settings

__all__ = [
    "Cache",
    "FastLanguageModel",
    "FastModel",
    "FastVisionModel",
    "MdlError",
    "Resolution",
    "ResolveOptions",
    "Settings",
    "access",
    "is_bf16_supported",
    "is_bfloat16_supported",
    "load",
    "load_settings",
    "lock",
    "plan",
    "pull",
    "resolve",
    "verify",
    "watch",
    "where",
]
_MODULES = {
    "mdl.cachemgr": "Cache",
    "mdl.errors": "MdlError",
    "mdl.loader": (
        "FastLanguageModel FastModel FastVisionModel is_bf16_supported is_bfloat16_supported "
        "load plan pull"
    ),
    "mdl.local_resolver": "access lock resolve where",
    "mdl.observe": "load_ipython_extension watch",
    "mdl.resolver": "Resolution ResolveOptions",
    "mdl.settings": "Settings load_settings",
}
_HOME = {name: (module, name) for module, names in _MODULES.items() for name in names.split()}
_HOME["verify"] = ("mdl.loader", "verify_target")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        module, attribute = _HOME[name]
        return getattr(import_module(module), attribute)
    if name[:1].isalpha():
        from mdl.loader import ADVICE

        if name in ADVICE:  # not AttributeError: `from mdl import …` would drop the advice
            raise ImportError(f"mdl has no {name}; use {ADVICE[name]}.")
    raise AttributeError(f"module 'mdl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
