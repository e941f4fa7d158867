"""The cache over HTTP: listing, plans and actions, verification, pins, trash, downloads, events."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Request, Response
from fastapi.responses import StreamingResponse

from mdl.errors import NotFoundError
from mdl.resolver import parse_name
from mdl.service.cache import act, listing_json, plan_json, trash_json, verify_json
from mdl.service.cache_schemas import Action, Plan, Verify
from mdl.service.http_errors import not_cached
from mdl.service.resolving import without_places
from mdl.service.routes.common import (
    BODY_REFUSALS,
    OF_A_NAME,
    REFUSALS,
    caller_of,
    json_response,
    needs,
    service_of,
)
from mdl.service.schemas import (
    ActionResponse,
    CacheResponse,
    DownloadsResponse,
    Name,
    PlanResponse,
    VerifyResponse,
)

cache_router = APIRouter(prefix="/v1", responses=REFUSALS)
_ADMIN = [needs("admin")]


@cache_router.get("/cache", response_model=CacheResponse)
async def listing(request: Request) -> Response:
    """The cache of the service's machine: the object of `mdl cache ls --json`."""
    cache, caller = service_of(request).cache, caller_of(request)
    state = await cache.state()
    return json_response(listing_json(cache.root, state, internal=caller.role == "admin"))


@cache_router.post(
    "/cache/plans", response_model=PlanResponse, responses=BODY_REFUSALS,
    dependencies=[needs("local")],
)  # fmt: skip
async def make_plan(request: Request, wanted: Annotated[Plan, Body()]) -> Response:
    """What a change would do: the command's `--dry-run --json`, and a digest. Changes nothing."""
    service = service_of(request)
    planned = await service.cache.changing.run(lambda cache: plan_json(cache, wanted))
    if caller_of(request).role != "admin":
        planned = without_places(planned, service.settings)
    return json_response(planned)


@cache_router.post(
    "/cache/actions", response_model=ActionResponse, responses=BODY_REFUSALS, dependencies=_ADMIN
)
async def act_on(request: Request, wanted: Action) -> Response:
    """Carry out a plan that was looked at: the command's `--yes --json`. Role admin.

    Responds when it is done, however long that takes. A caller who hangs up does not stop it;
    `GET /v1/cache/actions` shows how it went.
    """
    service = service_of(request)
    try:
        done = await service.cache.changing.run(
            lambda cache: act(cache, wanted.plan, wanted.digest)
        )
        return json_response(done)
    finally:
        service.cache.forget()


@cache_router.post(
    "/cache/verify", response_model=VerifyResponse, responses=BODY_REFUSALS, dependencies=_ADMIN
)
async def verify(request: Request, wanted: Verify) -> Response:
    """Compare the files with their hashes: `mdl cache verify --json`. Role admin.

    409, with the same report, when a file is damaged. One verification runs at a time; a file
    found intact is not read again for a day.
    """
    service = service_of(request)
    found = await service.cache.verify(
        lambda cache: verify_json(cache, wanted, service.cache.closing)
    )
    return json_response(found, 409 if "error" in found else 200)


@cache_router.get("/cache/pins")
async def pins(request: Request) -> Response:
    """What no prune removes: `mdl cache pin --json`."""
    found = await service_of(request).cache.reading.run(lambda cache: cache.pins)
    return json_response({"pins": found})


@cache_router.get("/cache/trash", dependencies=_ADMIN)
async def trash(request: Request) -> Response:
    """What is in the trash: `mdl cache trash ls --json`. Role admin."""
    return json_response(await service_of(request).cache.reading.run(trash_json))


@cache_router.get("/cache/actions", dependencies=_ADMIN)
async def actions(request: Request) -> Response:
    """The journal of changes, finished and under way. Role admin."""
    found = await service_of(request).cache.reading.run(lambda cache: cache.index.actions())
    return json_response({"actions": [action._asdict() for action in found]})


@cache_router.get("/cache/{repo_id:path}", dependencies=[OF_A_NAME])
async def cached_repo(request: Request, repo_id: Annotated[Name, Path()]) -> Response:
    """One repository of the cache, by its name in any casing."""
    key = parse_name(repo_id, allow_local=False).key
    state = await service_of(request).cache.state()
    found = [repo.to_json() for repo in state.repos if repo.repo_id.casefold() == key]
    if not found:
        raise not_cached(repo_id)
    return json_response({"repos": found})


@cache_router.get("/hub/downloads", response_model=DownloadsResponse, dependencies=[needs("local")])
async def downloads(request: Request) -> Response:
    """What `mdl serve --hub` is downloading now: how far, how fast, and for which clients."""
    hub = service_of(request).hub
    if hub is None:
        raise NotFoundError("This service is no Hub.", next="Start it with `mdl serve --hub`.")
    return json_response({"downloads": hub.downloads()})


@cache_router.get("/events", response_class=StreamingResponse)
async def events(request: Request) -> Response:
    """Server-sent events: `cache`, with the new totals, when the cache changed."""
    streams = service_of(request).streams
    streams.check_capacity()
    return StreamingResponse(streams.follow(), media_type="text/event-stream")
