"""Unsloth's calls, argument for argument: loading, and what its users call afterwards."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.unsloth.elsewhere import ADVICE
    from mdl.loader.unsloth.fast_model import FastLanguageModel, FastModel, FastVisionModel

__getattr__ = door(
    __name__,
    {"elsewhere": "ADVICE", "fast_model": "FastLanguageModel FastModel FastVisionModel"},
)
