"""The page for people at `/`: complete without JavaScript, live with it."""

import asyncio
import html
import shutil
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, Field

from mdl.errors import MdlError
from mdl.resolver import ResolveOptions
from mdl.service.auth import may
from mdl.service.cache import Shown, View, cache_html, details_json
from mdl.service.http_errors import status_of
from mdl.service.resolving import error_html, resolution_html
from mdl.service.routes.changes import act_on_form, change_section
from mdl.service.routes.common import (
    caller_of,
    family_if_known,
    needs,
    resolve_one,
    service_of,
)
from mdl.service.routes.sections import downloads_section, prune_section, runs_section
from mdl.version import __version__

page_router = APIRouter(include_in_schema=False)
_ASSETS = {"style.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
_HEADERS = {
    # Everything the page needs is its own; nothing it shows can become script.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self';"
    " connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    # With `no-referrer`, the page's own forms would be sent with `Origin: null`.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FORMAT_NAMES = {
    "16bit": "16-bit",
    "bnb-4bit": "4-bit (bitsandbytes)",
    "8bit": "8-bit",
    "fp8": "fp8",
    "gguf": "GGUF",
    "awq": "AWQ",
    "gptq": "GPTQ",
    "mlx": "MLX",
}


@cache
def _asset(name: str) -> str:
    return (files("mdl.service") / "static" / name).read_text(encoding="utf-8")


@page_router.get("/page/downloads", dependencies=[needs("local")])
async def downloads(request: Request) -> Response:
    """The section of downloads alone, for an open page to look at again and again."""
    text = downloads_section(service_of(request))
    return Response(text, media_type="text/html", headers=_HEADERS)


@page_router.get("/page/{name}")
async def asset(name: str) -> Response:
    """The stylesheet and the script."""
    if name not in _ASSETS:
        return Response("There is nothing at this address.", 404, media_type="text/plain")
    return Response(_asset(name), media_type=_ASSETS[name], headers=_HEADERS)


class PageQuery(BaseModel):
    """The page's address. `remove` is what was selected to be removed, as `mdl cache rm` takes it;
    the other fields of the cache are those of `View`."""

    name: Annotated[str, Field(max_length=200)] = ""
    format: Annotated[str, Field(max_length=20)] = "16bit"
    exact: bool = False
    max_size: Annotated[str, Field(max_length=20)] = ""
    unused_for: Annotated[str, Field(max_length=20)] = ""
    at: Annotated[str, Field(max_length=300)] = ""
    colour: Literal["age", "type"] = "age"
    sort: Literal["size", "name", "used"] = "size"
    filter: Annotated[str, Field(max_length=200)] = ""
    remove: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=200)] = []

    @property
    def view(self) -> View:
        at = tuple(self.at.split("|"))[:4] if self.at else ()
        return View(at, self.colour, self.sort, self.filter)


@page_router.post("/page/act", dependencies=[needs("admin")])
async def act_from_page(request: Request) -> Response:
    """Carry out the plan of a form of the page, and show the page again."""
    try:
        await act_on_form(request)
    except MdlError as error:
        return await _page(request, PageQuery(), error)
    return RedirectResponse("/#change", 303)


@page_router.get("/")
async def index(request: Request, query: Annotated[PageQuery, Query()]) -> Response:
    """The whole page, with the resolution of `name` and the plans that were asked for."""
    return await _page(request, query)


async def _page(request: Request, query: PageQuery, failed: MdlError | None = None) -> Response:
    """The page.

    Args:
        failed: why what a form asked for was not done.
    """
    service, caller = service_of(request), caller_of(request)
    cross_site = request.state.cross_site  # a link from another site; it must not cause anything
    result = more = ""
    if query.name and not cross_site:
        result = await _result(request, query)
    version, cache_section = await _cache(request, query.view)
    if may(caller.role, "local") and not cross_site:
        more = await change_section(request, query.remove, failed)
        more += downloads_section(service)
        more += await runs_section(service)
        more += await prune_section(request, query.max_size, query.unused_for)
    text = Template(_asset("index.html")).substitute(
        title=html.escape(f"{query.name} · mdl" if query.name else "mdl"),
        name=html.escape(query.name),
        formats="".join(
            f'<option value="{key}"{" selected" if key == query.format else ""}>{label}</option>'
            for key, label in _FORMAT_NAMES.items()
        ),
        exact=" checked" if query.exact else "",
        result=result,
        version=version,
        cache=cache_section,
        more=more,
        release=__version__,
    )
    status = 200 if failed is None else status_of(failed)
    return Response(text, status, media_type="text/html", headers=_HEADERS)


async def _result(request: Request, query: PageQuery) -> str:
    try:
        options = ResolveOptions(query.format, query.exact)
        found = await resolve_one(request, query.name, options)
        family = await family_if_known(request, found.canonical)
    except MdlError as error:
        return error_html(error)
    return await asyncio.to_thread(resolution_html, found, family)  # it reads a configuration


async def _cache(request: Request, view: View) -> tuple[str, str]:
    """The cache's version and its section."""
    cache = service_of(request).cache
    try:
        state = await cache.state()
        details = None
        if len(view.at) >= 3:
            repo_type, _, repo_id = view.at[:3]
            details = await cache.reading.run(
                lambda opened: details_json(opened, repo_type, repo_id)
            )
        can_remove = may(caller_of(request).role, "admin")
        shown = Shown(view, _free(cache.root), details, can_remove)
        return state.version, cache_html(state.repos, state.totals, shown)
    except MdlError as error:
        return "", f'<h2 id="cached">The cache</h2>{error_html(error)}'


def _free(root: Path) -> int | None:
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None
