"""Putting the kernels into a transformers model, and taking them out again."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.kernels.swap.model import Applied, apply, chosen_operations, ls, remove
    from mdl.kernels.swap.needs import Need, dtype_of, llama_8b, need_of, needs_of
    from mdl.kernels.swap.registry import RULES

__getattr__ = door(
    __name__,
    {
        "model": "Applied apply chosen_operations ls remove",
        "needs": "Need dtype_of llama_8b need_of needs_of",
        "registry": "RULES",
    },
)
