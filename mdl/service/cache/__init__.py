"""The cache over HTTP: its state, plans, reports and events."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.service.cache.events import EventStreams
    from mdl.service.cache.html import cache_html
    from mdl.service.cache.plans import act, plan_json, policy_of
    from mdl.service.cache.reports import trash_json, verify_json
    from mdl.service.cache.treemap_html import View
    from mdl.service.cache.view import CacheService, listing_json

__getattr__ = door(
    __name__,
    {
        "events": "EventStreams",
        "html": "cache_html",
        "plans": "act plan_json policy_of",
        "reports": "trash_json verify_json",
        "treemap_html": "View",
        "view": "CacheService listing_json",
    },
)
