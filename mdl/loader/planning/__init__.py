"""Plan a load before it happens: downloads, disk space and memory."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.planning.footprint import empty_model
    from mdl.loader.planning.load_plan import LoadPlan, make_plan
    from mdl.loader.planning.memory_check import check_fits, check_plan

__getattr__ = door(
    __name__,
    {
        "footprint": "empty_model",
        "load_plan": "LoadPlan make_plan",
        "memory_check": "check_fits check_plan",
    },
)
