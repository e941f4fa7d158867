"""The catalogue's routes: its rows a page at a time, and an admin's changes to them."""

from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse

from mdl.errors import NotFoundError
from mdl.resolver import make_row, parse_name, read_bytes, rows_to_remove
from mdl.service.guard import check_role
from mdl.service.routes.resolve import CHANGED, REFUSALS, service_of
from mdl.service.schemas import (
    AddedAnswer,
    CatalogAnswer,
    FileName,
    Format,
    ImportedAnswer,
    MirrorRecord,
    MirrorToAdd,
    Name,
    NamedAnswer,
    RemovedAnswer,
    Text,
)
from mdl.store import USER, CatalogSource

router = APIRouter(prefix="/v1/catalog", responses=REFUSALS)

_FILE = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "mirrors": {"type": "array", "items": MirrorRecord.model_json_schema()}
                    },
                    "required": ["mirrors"],
                }
            },
            "application/toml": {"schema": {"type": "string"}},
            "text/csv": {"schema": {"type": "string"}},
        },
    }
}


@router.get("", response_model=CatalogAnswer)
async def catalog(
    request: Request,
    source: Annotated[Text | None, Query()] = None,
    format: Format | None = None,
    after: Annotated[Text | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JSONResponse:
    """The table of mirrors, a page at a time: `next` is the following page's `after`.

    A name's rows stay together, so a page may have more than `limit`.
    """
    service = service_of(request)
    check_role(request.scope, "read")

    def work() -> dict[str, Any]:
        held = service.answers.catalog()
        rows, following = held.page(limit, after=after, source=source, format=format)
        mirrors = [row._asdict() for row in rows]
        return {"sources": held.sources(), "mirrors": mirrors, "next": following}

    return JSONResponse(await service.answers.in_thread(work))


@router.get("/{name:path}", response_model=NamedAnswer)
async def catalog_of(request: Request, name: Annotated[Name, Path()]) -> JSONResponse:
    """The rows about one name, and whether it is known to be a bad mirror; 404 without either."""
    service = service_of(request)
    check_role(request.scope, "read")
    asked = parse_name(name, allow_local=False)

    def work() -> dict[str, Any]:
        held = service.answers.catalog()
        known, rows = held.about(asked.key), held.mirrors(name=asked.key)
        if not rows and known.bad is None:
            raise NotFoundError(
                f"The catalogue has no row about {asked.text}.",
                next="GET /v1/catalog lists what it has; GET /v1/resolve asks the Hub.",
            )
        return {
            "name": known.spelling or asked.text,
            "bad": known.bad._asdict() if known.bad else None,
            "mirrors": [row._asdict() for row in rows],
        }

    return JSONResponse(await service.answers.in_thread(work))


@router.post("", response_model=AddedAnswer, responses=CHANGED)
async def add_to_catalog(request: Request, wanted: MirrorToAdd) -> JSONResponse:
    """Add a mirror of a name: `mdl catalog add --json`. Role admin.

    Beats every imported row. Other replicas follow within two seconds.
    """
    service = service_of(request)
    check_role(request.scope, "admin")
    row = make_row(wanted.name, wanted.mirror, wanted.format, wanted.weights, rank=wanted.rank)
    if not wanted.dry_run:
        await service.answers.in_thread(lambda: service.answers.catalog().add([row]))
        service.guard.forget()
    return JSONResponse({"added": row._asdict(), "dry_run": wanted.dry_run})


@router.post("/import", response_model=ImportedAnswer, responses=CHANGED, openapi_extra=_FILE)
async def import_into_catalog(
    request: Request, file: Annotated[FileName, Query()], dry_run: bool = False
) -> JSONResponse:
    """Import a catalogue file, the body: `mdl catalog import FILE --json`. Role admin.

    `file` is its name: the ending says its kind, and a file of the same name replaces what that
    one gave before. All of it is imported, or, with one wrong row, nothing.
    """
    service = service_of(request)
    check_role(request.scope, "admin")
    data = await request.body()

    def work() -> tuple[CatalogSource, int]:
        source, rows = read_bytes(data, FilePath(file))
        if not dry_run:
            service.answers.catalog().import_rows(source, rows)
        return source, len(rows)

    source, count = await service.answers.in_thread(work)
    if not dry_run:
        service.guard.forget()
    body = {"source": source._asdict(), "rows": count, "bad_mirrors": 0, "dry_run": dry_run}
    return JSONResponse(body)


@router.delete("/{name:path}", response_model=RemovedAnswer, responses=CHANGED)
async def remove_from_catalog(
    request: Request,
    name: Annotated[Name, Path()],
    mirror: Annotated[Name | None, Query()] = None,
    source: Annotated[Text, Query()] = USER,
    dry_run: bool = False,
) -> JSONResponse:
    """Remove a name's rows, or the one with that mirror: `mdl catalog rm --json`. Role admin."""
    service = service_of(request)
    check_role(request.scope, "admin")
    asked = parse_name(name, allow_local=False).text
    which = parse_name(mirror, allow_local=False).text if mirror is not None else None

    def work() -> dict[str, Any]:
        held = service.answers.catalog()
        rows = rows_to_remove(held, asked, which, source)
        removed = 0 if dry_run else held.remove(asked, which, source=source)
        return {"rows": [row._asdict() for row in rows], "removed": removed}

    found = await service.answers.in_thread(work)
    if not dry_run:
        service.guard.forget()
    return JSONResponse(found)
