"""Does it fit: downloads, disk and memory of a load, before it happens."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.planning.fit import check_memory, refuse_too_big
    from mdl.loader.planning.load_plan import LoadPlan, make_plan

__getattr__ = door(
    __name__,
    {
        "fit": "check_memory refuse_too_big",
        "load_plan": "LoadPlan make_plan",
    },
)
