"""The cache over HTTP: its state, plans, reports and events."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.service.cache.events import EventStreams
    from mdl.service.cache.html import Shown, cache_html
    from mdl.service.cache.plans import act, plan_json, policy_of, undo_plan
    from mdl.service.cache.reports import details_json, trash_json, verify_json
    from mdl.service.cache.treemap_html import View
    from mdl.service.cache.view import CacheService, listing_json

__getattr__ = door(
    __name__,
    {
        "events": "EventStreams",
        "html": "Shown cache_html",
        "plans": "act plan_json policy_of undo_plan",
        "reports": "details_json trash_json verify_json",
        "treemap_html": "View",
        "view": "CacheService listing_json",
    },
)
