"""The versioned routes. Thin: parse, ask, answer."""

import json
import os
import time
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from mdl.resolver import parse_name
from mdl.service import http_errors as errors
from mdl.service.cache import act, listing_json, plan_json, rate_of, trash_json, verified
from mdl.service.exchange import Exchange
from mdl.service.guard import check_role
from mdl.service.resolving import answer_json, without_places
from mdl.service.resolving import query as resolve_query
from mdl.service.schemas import (
    AccessAnswer,
    Action,
    ActionAnswer,
    BulkAnswer,
    BulkRequest,
    CacheAnswer,
    ErrorAnswer,
    Format,
    HealthAnswer,
    LockRequest,
    Name,
    Plan,
    PlanAnswer,
    Preference,
    ResolutionAnswer,
    Revision,
    Text,
    Verify,
    VerifyAnswer,
)
from mdl.version import __version__

if TYPE_CHECKING:
    from mdl.service.app import Service

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The request itself is wrong.",
        401: "A token is needed.",
        403: "The token's role is not enough, or the Hub says no.",
        404: "No such repository, revision or entry.",
        424: "The answer needs the Hub, which is out of reach.",
        503: "Not now; Retry-After says when.",
    }.items()
}
CHANGED: dict[int | str, dict[str, Any]] = {
    408: {"model": ErrorAnswer, "description": "The body did not come in time."},
    409: {"model": ErrorAnswer, "description": "The plan has changed; look at it again."},
    413: {"model": ErrorAnswer, "description": "The body is too large."},
    415: {"model": ErrorAnswer, "description": "The body is of a kind that is not taken here."},
}
_ANSWER: dict[int | str, dict[str, Any]] = {200: {"model": ResolutionAnswer}}
router = APIRouter(prefix="/v1", responses=REFUSALS)


def service_of(request: Request) -> "Service":
    service: Service = request.app.state.service
    return service


@router.get("/health", response_model=HealthAnswer)
async def health() -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok", "version": __version__})


@router.get("/ready", response_model=HealthAnswer)
async def ready(request: Request) -> Response:
    """Names can be answered: the database is there. A load balancer asks this."""
    answers = service_of(request).answers
    await answers.in_thread(answers.ready)
    return JSONResponse({"status": "ready", "version": __version__})


@router.get("/resolve", responses=_ANSWER)
async def resolve(
    request: Request,
    name: Annotated[Name, Query()],
    format: Format = "16bit",
    exact: bool = False,
    revision: Revision | None = None,
    prefer: Preference | None = None,
    fp8_scaling: Literal["block", "row"] = "block",
) -> Response:
    """What a name gives, and why: the object of `mdl resolve --json`."""
    # The guard answers this where it arrives; the fields stand here for the OpenAPI document.
    service, caller = service_of(request), check_role(request.scope, "read")
    exchange: Exchange = request.scope["mdl.exchange"]
    body, status = await service.guard.resolved(request.scope["query_string"], caller, exchange)
    return Response(body, status, errors.headers_of(status), "application/json")


@router.post("/resolve", response_model=BulkAnswer, responses=CHANGED)
async def resolve_many(request: Request, bulk: BulkRequest) -> Response:
    """Up to a thousand names with the same options, in order, each with its own error."""
    service, caller = service_of(request), check_role(request.scope, "read")
    fields = bulk.model_dump(exclude={"names"})
    asked = resolve_query.from_fields(fields, service.settings.prefer)
    answers = await service.answers.resolve_many(bulk.names, asked, caller)
    return JSONResponse({"answers": [answer_json(answer, caller) for answer in answers]})


@router.get("/access", response_model=AccessAnswer)
async def access(request: Request, name: Annotated[Name, Query()]) -> Response:
    """Whether the caller's own Hub token (X-Hub-Token) may read a repository, asked now."""
    service, caller = service_of(request), check_role(request.scope, "read")
    found = await service.answers.access(name, caller)
    return JSONResponse(found.to_json())


@router.post("/lock", responses=CHANGED, response_class=PlainTextResponse)
async def lock(request: Request, wanted: LockRequest) -> Response:
    """A lock file for these names: commits and hashes of what they give now."""
    service, caller = service_of(request), check_role(request.scope, "read")
    fields = wanted.model_dump(exclude={"names"})
    asked = resolve_query.from_fields(fields, service.settings.prefer)
    text = await service.answers.lock(wanted.names, asked, caller)
    return PlainTextResponse(text, media_type="application/toml")


@router.get("/history")
async def history(
    request: Request,
    name: Annotated[Text | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> JSONResponse:
    """The resolution log, newest first. It tells what others asked for: role admin."""
    service = service_of(request)
    check_role(request.scope, "admin")
    rows = await service.answers.in_thread(lambda: service.answers.catalog().history(name, limit))
    return JSONResponse({"history": rows})


@router.get("/cache", response_model=CacheAnswer)
async def cache(request: Request) -> Response:
    """The cache of the service's machine: the object of `mdl cache ls --json`."""
    service, caller = service_of(request), check_role(request.scope, "read")
    view = await service.keeper.view()
    shown = listing_json(service.keeper.root, view, inside=caller.role == "admin")
    return Response(json.dumps(shown), media_type="application/json")


@router.post("/cache/plans", response_model=PlanAnswer, responses=CHANGED)
async def plans(request: Request, wanted: Annotated[Plan, Body()]) -> Response:
    """What a change would do: the command's `--dry-run --json`, and a digest. Changes nothing."""
    service, caller = service_of(request), check_role(request.scope, "local")
    planned = await service.keeper.changing.run(lambda held: plan_json(held, wanted))
    if caller.role != "admin":
        planned = without_places(planned, service.settings)
    return JSONResponse(planned)


@router.post("/cache/actions", response_model=ActionAnswer, responses=CHANGED)
async def act_on(request: Request, wanted: Action) -> Response:
    """Carry out a plan that was looked at: the command's `--yes --json`. Role admin.

    Answers when it is done, however long that takes; it is done also when nobody waits for the
    answer, and `GET /v1/cache/actions` tells how it went.
    """
    service = service_of(request)
    check_role(request.scope, "admin")
    try:
        done = await service.keeper.changing.run(lambda held: act(held, wanted.plan, wanted.digest))
        return JSONResponse(done)
    finally:
        service.keeper.forget()


@router.post("/cache/verify", response_model=VerifyAnswer, responses=CHANGED)
async def verify(request: Request, wanted: Verify) -> Response:
    """Hash what is here against its names: `mdl cache verify --json`. Role admin.

    409 when something is bad, with the report all the same. One runs at a time; what it found
    right is remembered for a day.
    """
    service = service_of(request)
    check_role(request.scope, "admin")
    rate = rate_of(wanted)
    found = await service.keeper.verify(
        lambda held: verified(held, wanted, rate, service.keeper.closing)
    )
    return JSONResponse(found, 409 if "error" in found else 200)


@router.get("/cache/pins")
async def pins(request: Request) -> JSONResponse:
    """What no prune removes: `mdl cache pin --json`."""
    service = service_of(request)
    check_role(request.scope, "read")
    return JSONResponse({"pins": await service.keeper.reading.run(lambda held: held.pins)})


@router.get("/cache/trash")
async def trash(request: Request) -> JSONResponse:
    """What waits in the trash: `mdl cache trash ls --json`. Role admin."""
    service = service_of(request)
    check_role(request.scope, "admin")
    return JSONResponse(await service.keeper.reading.run(trash_json))


@router.get("/cache/actions")
async def journal(request: Request) -> JSONResponse:
    """The journal of what was changed and what is under way. Role admin."""
    service = service_of(request)
    check_role(request.scope, "admin")
    found = await service.keeper.reading.run(lambda held: held.index.actions())
    return JSONResponse({"actions": [action._asdict() for action in found]})


@router.get("/cache/{repo_id:path}")
async def cached_repo(request: Request, repo_id: Annotated[Name, Path()]) -> JSONResponse:
    """One repository of the cache, by its name in any casing."""
    service = service_of(request)
    check_role(request.scope, "read")
    key = parse_name(repo_id, allow_local=False).key
    view = await service.keeper.view()
    found = [repo.to_json() for repo in view.repos if repo.repo_id.casefold() == key]
    if not found:
        raise errors.not_cached(repo_id)
    return JSONResponse({"repos": found})


@router.get("/events", response_class=StreamingResponse)
async def events(request: Request) -> Response:
    """Server-sent events: `cache`, with the new totals, when the cache changed."""
    service = service_of(request)
    check_role(request.scope, "read")
    service.streams.check_room()
    return StreamingResponse(service.streams.follow(), media_type="text/event-stream")


async def metrics(request: Request) -> PlainTextResponse:
    """Prometheus metrics of this replica."""
    service = service_of(request)
    check_role(request.scope, "read")
    view = service.keeper.held
    gauges = [
        ("mdl_waiting_for_a_thread", "Requests waiting for a thread.", service.answers.waiting),
        ("mdl_event_streams", "Pages that watch.", service.streams.open),
        ("mdl_uptime_seconds", "Since the start.", time.monotonic() - service.started),
        ("mdl_resident_bytes", "Memory of the process.", _resident()),
    ]
    if view is not None:
        gauges += [
            ("mdl_cache_repos", "Repositories in the cache.", view.totals.repos),
            ("mdl_cache_bytes", "What the cache occupies.", view.totals.size_on_disk),
            ("mdl_cache_trash_bytes", "What waits in the trash.", view.totals.trash_size),
        ]
    text = service.metrics.text(gauges)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _resident() -> int:
    try:
        pages = FilePath("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
