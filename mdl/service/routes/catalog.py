"""The catalogue over HTTP: its rows, a page at a time, and an admin's changes to them."""

from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from mdl.errors import NotFoundError
from mdl.resolver import mirror_row, parse_catalog_file, parse_name, rows_to_remove
from mdl.service.routes.common import (
    BODY_REFUSALS,
    OF_A_NAME,
    REFUSALS,
    json_response,
    needs,
    service_of,
)
from mdl.service.schemas import (
    AddedResponse,
    CatalogResponse,
    FileName,
    Format,
    ImportedResponse,
    MirrorRecord,
    MirrorToAdd,
    Name,
    NamedResponse,
    RemovedResponse,
    Text,
)
from mdl.store import USER, CatalogSource

catalog_router = APIRouter(prefix="/v1/catalog", responses=REFUSALS)
_ADMIN = [needs("admin")]

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


@catalog_router.get("", response_model=CatalogResponse)
async def listing(
    request: Request,
    source: Annotated[Text | None, Query()] = None,
    format: Format | None = None,
    after: Annotated[Text | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """The table of mirrors, a page at a time: pass `next` as `after` to get the next page.

    A name's rows stay together, so a page may have more than `limit`.
    """
    resolver = service_of(request).resolver

    def work() -> dict[str, Any]:
        catalog = resolver.catalog()
        rows, following = catalog.page(limit, after=after, source=source, format=format)
        mirrors = [row._asdict() for row in rows]
        return {"sources": catalog.sources(), "mirrors": mirrors, "next": following}

    return json_response(await resolver.in_thread(work))


@catalog_router.get("/{name:path}", response_model=NamedResponse, dependencies=[OF_A_NAME])
async def name_in_catalog(request: Request, name: Annotated[Name, Path()]) -> Response:
    """One name's rows, and why it is a bad mirror where it is one; 404 if there is neither."""
    resolver = service_of(request).resolver
    asked = parse_name(name, allow_local=False)

    def work() -> dict[str, Any]:
        catalog = resolver.catalog()
        known, rows = catalog.about(asked.key), catalog.mirrors(name=asked.key)
        if not rows and known.bad is None:
            raise NotFoundError(
                f"The catalogue has no row about {asked.text}.",
                next="GET /v1/catalog lists its rows; GET /v1/resolve asks the Hub.",
            )
        return {
            "name": known.spelling or asked.text,
            "bad": known.bad._asdict() if known.bad else None,
            "mirrors": [row._asdict() for row in rows],
        }

    return json_response(await resolver.in_thread(work))


@catalog_router.post("", response_model=AddedResponse, responses=BODY_REFUSALS, dependencies=_ADMIN)
async def add_to_catalog(request: Request, wanted: MirrorToAdd) -> Response:
    """Add a mirror of a name: `mdl catalog add --json`. Role admin.

    It takes precedence over every imported row.
    """
    resolver = service_of(request).resolver
    row = mirror_row(wanted.name, wanted.mirror, wanted.format, wanted.weights, rank=wanted.rank)
    if not wanted.dry_run:
        await resolver.in_thread(lambda: resolver.catalog().add([row]))
    return json_response({"added": row._asdict(), "dry_run": wanted.dry_run})


@catalog_router.post(
    "/import", response_model=ImportedResponse, responses=BODY_REFUSALS, dependencies=_ADMIN,
    openapi_extra=_FILE,
)  # fmt: skip
async def import_into_catalog(
    request: Request, file: Annotated[FileName, Query()], dry_run: bool = False
) -> Response:
    """Import a catalogue file, the body: `mdl catalog import FILE --json`. Role admin.

    `file` is its name: the extension says its type, and its rows replace those of an earlier
    file of that name. If one row is wrong, nothing is imported.
    """
    resolver = service_of(request).resolver
    data = await request.body()

    def work() -> tuple[CatalogSource, int]:
        source, rows = parse_catalog_file(data, FilePath(file))
        if not dry_run:
            resolver.catalog().import_rows(source, rows)
        return source, len(rows)

    source, count = await resolver.in_thread(work)
    body = {"source": source._asdict(), "rows": count, "bad_mirrors": 0, "dry_run": dry_run}
    return json_response(body)


@catalog_router.delete(
    "/{name:path}",
    response_model=RemovedResponse,
    responses=BODY_REFUSALS,
    dependencies=[*_ADMIN, OF_A_NAME],
)
async def remove_from_catalog(
    request: Request,
    name: Annotated[Name, Path()],
    mirror: Annotated[Name | None, Query()] = None,
    source: Annotated[Text, Query()] = USER,
    dry_run: bool = False,
) -> Response:
    """Remove a name's rows, or the one with that mirror: `mdl catalog rm --json`. Role admin."""
    resolver = service_of(request).resolver
    asked = parse_name(name, allow_local=False).text
    which = parse_name(mirror, allow_local=False).text if mirror is not None else None

    def work() -> dict[str, Any]:
        catalog = resolver.catalog()
        rows = rows_to_remove(catalog, asked, which, source)
        removed = 0 if dry_run else catalog.remove(asked, which, source=source)
        return {"rows": [row._asdict() for row in rows], "removed": removed}

    return json_response(await resolver.in_thread(work))
