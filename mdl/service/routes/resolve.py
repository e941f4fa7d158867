"""Names over HTTP: what a name resolves to, who may read it, lock files, the resolution log."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from mdl.service.http_errors import status_of
from mdl.service.resolving import family_json, resolution_json
from mdl.service.routes.common import (
    BODY_REFUSALS,
    REFUSALS,
    caller_of,
    family_if_known,
    family_of,
    json_response,
    needs,
    resolve_one,
    service_of,
    while_connected,
)
from mdl.service.schemas import (
    AccessResponse,
    BulkRequest,
    BulkResponse,
    FamilyResponse,
    LockRequest,
    Name,
    NamesResponse,
    ResolutionResponse,
    ResolveQuery,
    Text,
)

_RESOLUTION: dict[int | str, dict[str, Any]] = {200: {"model": ResolutionResponse}}
_X_HUB_TOKEN = {
    "name": "X-Hub-Token",
    "in": "header",
    "description": "The caller's own Hub token; never stored nor logged.",
    "schema": {"type": "string", "maxLength": 256},
}
_HUB_TOKEN = {"parameters": [_X_HUB_TOKEN]}
resolve_router = APIRouter(prefix="/v1", responses=REFUSALS)


@resolve_router.get(
    "/resolve",
    responses=_RESOLUTION,
    openapi_extra={"parameters": [*ResolveQuery.parameters(), _X_HUB_TOKEN]},
)
async def resolve(request: Request) -> Response:
    """What a name resolves to, and why: the object of `mdl resolve --json`."""
    query = ResolveQuery.of(request.query_params)
    service, caller = service_of(request), caller_of(request)
    logged = request.state.logged = {"name": query.name}
    options = query.options(service.settings.prefer)
    resolution = await resolve_one(request, query.name, options)
    logged["answer"] = resolution.repo_id
    status = 200 if resolution.error is None else status_of(resolution.error)
    body = resolution_json(resolution, caller)
    if query.family:
        family = await family_if_known(request, resolution.canonical)
        body["family"] = None if family is None else family_json(family, caller)
    return json_response(body, status)


@resolve_router.post(
    "/resolve", response_model=BulkResponse, responses=BODY_REFUSALS, openapi_extra=_HUB_TOKEN
)
async def resolve_many(request: Request, bulk: BulkRequest) -> Response:
    """Up to a thousand names in one format, in their order, each with its own error."""
    service, caller = service_of(request), caller_of(request)
    options = bulk.options(service.settings.prefer)
    work = service.resolver.resolve_many(bulk.names, options, caller)
    found = await while_connected(request, work)
    return json_response({"answers": [resolution_json(each, caller) for each in found]})


@resolve_router.get("/tree", response_model=FamilyResponse, openapi_extra=_HUB_TOKEN)
async def tree(request: Request, name: Annotated[Name, Query()]) -> Response:
    """The family of a model from any of its members: the object of `mdl tree --json`."""
    return json_response(family_json(await family_of(request, name), caller_of(request)))


@resolve_router.get("/names", response_model=NamesResponse)
async def names(
    request: Request,
    q: Annotated[str, Query(min_length=1, max_length=200, pattern=r"^[\x20-\x7e]+$")],
    limit: Annotated[int, Query(ge=1, le=50)] = 20,
) -> Response:
    """Names to complete `q`: models in the cache that contain it, and the catalogue's that begin
    with it. The Hub is not asked."""
    service = service_of(request)
    state = await service.cache.state()
    cached = (repo.repo_id for repo in state.models.values())
    here = sorted(name for name in cached if q.lower() in name.lower())
    found = dict.fromkeys(here[:limit], True)
    for name in await service.resolver.names(q, limit):
        found.setdefault(name, False)
    shown = [{"name": name, "cached": is_here} for name, is_here in found.items()]
    return json_response({"names": shown[:limit]})


@resolve_router.get("/access", response_model=AccessResponse, openapi_extra=_HUB_TOKEN)
async def access(request: Request, name: Annotated[Name, Query()]) -> Response:
    """Whether the caller's own Hub token (X-Hub-Token) can read a repository, checked now."""
    service = service_of(request)
    work = service.resolver.access(name, caller_of(request))
    found = await while_connected(request, work)
    return json_response(found.to_json())


@resolve_router.post(
    "/lock", response_class=Response, openapi_extra=_HUB_TOKEN,
    responses={**BODY_REFUSALS, 200: {"content": {"application/toml": {}}}},
)  # fmt: skip
async def lock(request: Request, wanted: LockRequest) -> Response:
    """A lock file for these names: the commits and hashes that they resolve to now."""
    service = service_of(request)
    options = wanted.options(service.settings.prefer)
    work = service.resolver.lock(wanted.names, options, caller_of(request))
    text = await while_connected(request, work)
    return Response(text, media_type="application/toml")


@resolve_router.get("/history", dependencies=[needs("admin")])
async def history(
    request: Request,
    name: Annotated[Text | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """The resolution log, newest first. Role admin: it shows what others asked for."""
    resolver = service_of(request).resolver
    rows = await resolver.in_thread(lambda: resolver.catalog().history(name, limit))
    return json_response({"history": rows})
