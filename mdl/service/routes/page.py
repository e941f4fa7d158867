"""The page for people at `/`: complete without JavaScript, live with it."""

import html
import shutil
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from mdl.cachemgr.remove import PrunePlan, plan_prune
from mdl.errors import MdlError
from mdl.formatting import human_ago, human_size
from mdl.resolver import ResolveOptions
from mdl.service.auth import may
from mdl.service.cache import View, cache_html, policy_of
from mdl.service.resolving import error_html, resolution_html
from mdl.service.routes.common import caller_of, resolve_one, service_of
from mdl.service.schemas import Prune
from mdl.version import __version__

if TYPE_CHECKING:
    from mdl.service.state import Service

page_router = APIRouter(include_in_schema=False)
_ASSETS = {"style.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
_HEADERS = {
    # Everything the page needs is its own; nothing it shows can become script.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self';"
    " connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
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
_RUNS = 20


@cache
def _asset(name: str) -> str:
    return (files("mdl.service") / "static" / name).read_text(encoding="utf-8")


@page_router.get("/page/{name}")
async def asset(name: str) -> Response:
    """The stylesheet and the script."""
    if name not in _ASSETS:
        return Response("There is nothing at this address.", 404, media_type="text/plain")
    return Response(_asset(name), media_type=_ASSETS[name], headers=_HEADERS)


@page_router.get("/")
async def index(
    request: Request,
    name: Annotated[str, Query(max_length=200)] = "",
    format: Annotated[str, Query(max_length=20)] = "16bit",
    exact: bool = False,
    max_size: Annotated[str, Query(max_length=20)] = "",
    unused_for: Annotated[str, Query(max_length=20)] = "",
    at: Annotated[str, Query(max_length=300)] = "",
    colour: Literal["age", "type"] = "age",
    sort: Literal["size", "name", "used"] = "size",
    filter: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """The whole page, with the resolution of `name` and a prune preview where asked for."""
    service, caller = service_of(request), caller_of(request)
    result = ""
    cross_site = request.state.cross_site  # a link from another site; it must not cause anything
    if name and not cross_site:
        try:
            found = await resolve_one(request, name, ResolveOptions(format, exact))
            result = resolution_html(found, await service.resolver.family(found.canonical))
        except MdlError as error:
            result = error_html(error)
    try:
        state = await service.cache.state()
        view = View(tuple(at.split("|")) if at else (), colour, sort, filter)
        version = state.version
        cache_section = cache_html(state.repos, state.totals, view, _free(service.cache.root))
    except MdlError as error:
        version, cache_section = "", f'<h2 id="cached">The cache</h2>{error_html(error)}'
    runs = preview = ""
    if may(caller.role, "local") and not cross_site:
        runs = await _runs(service)
        preview = await _preview(service, max_size, unused_for)
    text = Template(_asset("index.html")).substitute(
        title=html.escape(f"{name} · mdl" if name else "mdl"),
        name=html.escape(name),
        formats="".join(
            f'<option value="{key}"{" selected" if key == format else ""}>{label}</option>'
            for key, label in _FORMAT_NAMES.items()
        ),
        exact=" checked" if exact else "",
        result=result,
        version=version,
        cache=cache_section,
        runs=runs,
        preview=preview,
        release=__version__,
    )
    return Response(text, media_type="text/html", headers=_HEADERS)


def _free(root: Path) -> int | None:
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None


async def _runs(service: "Service") -> str:
    """The models that runs opened lately, as `mdl run` and `mdl.watch` logged them."""
    resolver = service.resolver
    try:
        found = await resolver.in_thread(
            lambda: resolver.catalog().history(limit=_RUNS, purpose="run")
        )
    except MdlError:
        return ""  # the cache and the result above are still worth showing
    if not found:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row["repo_id"])}</th>'
        f"<td>{html.escape((row['commit'] or '')[:12])}</td>"
        f"<td>{html.escape(row['format'] or 'no weights')}</td>"
        f'<td class="when">{human_ago(row["at"])}</td></tr>'
        for row in found
    )
    return (
        '<section aria-labelledby="runs"><h2 id="runs">What did runs open?</h2>'
        '<div class="scroll" role="region" tabindex="0" aria-label="Models that runs opened">'
        f"<table><caption>Seen by <code>mdl run</code>, the latest first.</caption><thead><tr>"
        '<th scope="col">Repository</th><th scope="col">Revision</th>'
        '<th scope="col">Format</th><th scope="col">Opened</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


async def _preview(service: "Service", max_size: str, unused_for: str) -> str:
    shown = ""
    if max_size or unused_for:
        try:
            fields = Prune(kind="prune", max_size=max_size or None, unused_for=unused_for or None)
            policy = policy_of(fields, service.settings.cache)
            plan = await service.cache.reading.run(lambda cache: plan_prune(cache, policy))
            shown = _plan_html(plan)
        except MdlError as error:
            shown = error_html(error)
    return f"""<section aria-labelledby="prune"><h2 id="prune">What would a prune remove?</h2>
<form action="/#prune" method="get">
<p><label for="max_size">Keep the cache under</label>
<input id="max_size" name="max_size" value="{html.escape(max_size)}" placeholder="200GB"></p>
<p><label for="unused_for">and remove what has been unused for</label>
<input id="unused_for" name="unused_for" value="{html.escape(unused_for)}" placeholder="30d"></p>
<p><button type="submit">Preview</button></p></form>
<p class="totals">A preview changes nothing. <code>mdl cache prune</code> moves it to the
trash.</p>
{shown}</section>"""


def _plan_html(plan: PrunePlan) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(remove.item.repo_id)}</th>'
        f"<td>{html.escape((remove.item.commit or remove.item.kind)[:12])}</td>"
        f'<td class="number">{human_size(remove.bytes)}</td>'
        f"<td>{html.escape(remove.reason)}</td></tr>"
        for remove in plan.remove
    )
    if not rows:
        return "<p>Nothing would be removed.</p>"
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="What would be removed"><table>'
        f"<caption>{len(plan.remove)} to remove, {len(plan.keep)} to keep;"
        f" frees {human_size(plan.freed)}.</caption><thead><tr>"
        '<th scope="col">Repository</th><th scope="col">Revision</th>'
        '<th scope="col" class="number">Size</th><th scope="col">Why</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
