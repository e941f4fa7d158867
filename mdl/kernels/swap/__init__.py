"""Putting the kernels into a transformers model, and taking them out again."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.kernels.swap.model import Applied, apply, ls, remove
    from mdl.kernels.swap.registry import RULES

__getattr__ = door(__name__, {"model": "Applied apply ls remove", "registry": "RULES"})
