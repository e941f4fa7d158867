"""Making every casing of a name find the same copy: a plan first, then the operations."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.normalize.execute import apply_normalize
    from mdl.cachemgr.normalize.plan import plan_normalize
    from mdl.cachemgr.normalize.spelling import hub_spelling
    from mdl.cachemgr.normalize.types import NormalizePlan, NormalizeRequest

__getattr__ = door(
    __name__,
    {
        "execute": "apply_normalize",
        "plan": "plan_normalize",
        "spelling": "hub_spelling",
        "types": "NormalizePlan NormalizeRequest",
    },
)
