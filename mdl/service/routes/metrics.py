"""What monitoring asks: health, readiness and metrics."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from mdl.service.routes.common import REFUSALS, json_response, service_of
from mdl.service.schemas import HealthResponse
from mdl.version import __version__

monitoring_router = APIRouter(responses=REFUSALS)


@monitoring_router.get("/v1/health", response_model=HealthResponse)
async def health() -> Response:
    """The process responds."""
    return json_response({"status": "ok", "version": __version__})


@monitoring_router.get("/v1/ready", response_model=HealthResponse)
async def ready(request: Request) -> Response:
    """Names can be resolved: the database responds. For load balancers."""
    await service_of(request).resolver.check()
    return json_response({"status": "ready", "version": __version__})


@monitoring_router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Prometheus metrics of this replica."""
    return Response(
        generate_latest(service_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST
    )
