"""Making every casing of a name find one copy: a plan first, then the operations."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.normalize.execute import apply_normalize
    from mdl.cachemgr.normalize.plan import NormalizeRequest, hub_spelling, plan_normalize

__getattr__ = door(
    __name__,
    {
        "execute": "apply_normalize",
        "plan": "NormalizeRequest hub_spelling plan_normalize",
    },
)
