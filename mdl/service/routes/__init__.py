"""The HTTP routes. Each parses a request, calls what does the work, and responds."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.service.routes.cache import cache_router
    from mdl.service.routes.catalog import catalog_router
    from mdl.service.routes.common import caller_of, service_of
    from mdl.service.routes.metrics import monitoring_router
    from mdl.service.routes.page import page_router
    from mdl.service.routes.resolve import resolve_router

__getattr__ = door(
    __name__,
    {
        "cache": "cache_router",
        "catalog": "catalog_router",
        "common": "caller_of service_of",
        "metrics": "monitoring_router",
        "page": "page_router",
        "resolve": "resolve_router",
    },
)
