"""The page for people at `/`: complete without JavaScript, live with it."""

import html
from functools import cache
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from mdl.cachemgr.remove import PrunePlan, plan_prune
from mdl.errors import MdlError
from mdl.formatting import human_size
from mdl.resolver import ResolveOptions
from mdl.service.auth import may
from mdl.service.cache import cache_html, policy_of
from mdl.service.guard import check_role
from mdl.service.schemas import Prune
from mdl.version import __version__

if TYPE_CHECKING:
    from mdl.resolver import Resolution
    from mdl.service.app import Service

router = APIRouter(include_in_schema=False)
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
}
_MARKS = {"accepted": "taken", "rejected": "passed over", "noted": "noted"}


@cache
def _asset(name: str) -> str:
    return (files("mdl.service") / "static" / name).read_text(encoding="utf-8")


@router.get("/page/{name}")
async def asset(name: str) -> Response:
    """The stylesheet and the script."""
    if name not in _ASSETS:
        return Response("There is nothing here.", 404, media_type="text/plain")
    return Response(_asset(name), media_type=_ASSETS[name], headers=_HEADERS)


@router.get("/")
async def index(
    request: Request,
    name: Annotated[str, Query(max_length=200)] = "",
    format: Annotated[str, Query(max_length=20)] = "16bit",
    exact: bool = False,
    max_size: Annotated[str, Query(max_length=20)] = "",
    unused_for: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """The whole page, with the answer for `name` and a prune preview where asked for."""
    service: Service = request.app.state.service
    caller = check_role(request.scope, "read")
    answer = ""
    if name:
        try:
            found = await service.answers.resolve(name, ResolveOptions(format, exact), caller)
            answer = answer_html(found)
        except MdlError as error:
            answer = refusal_html(error)
    try:
        view = await service.keeper.view()
        version, shown = view.version, cache_html(view.repos, view.totals)
    except MdlError as error:
        version, shown = "", f'<h2 id="cached">The cache</h2>{refusal_html(error)}'
    preview = ""
    if may(caller.role, "local"):
        preview = await _preview(service, max_size, unused_for)
    text = Template(_asset("index.html")).substitute(
        title=html.escape(f"{name} · mdl" if name else "mdl"),
        name=html.escape(name),
        formats="".join(
            f'<option value="{key}"{" selected" if key == format else ""}>{label}</option>'
            for key, label in _FORMAT_NAMES.items()
        ),
        exact=" checked" if exact else "",
        answer=answer,
        version=version,
        cache=shown,
        preview=preview,
        release=__version__,
    )
    return Response(text, media_type="text/html", headers=_HEADERS)


def answer_html(answer: "Resolution") -> str:
    """A resolution with its trace."""
    if answer.error is not None:
        return refusal_html(answer.error) + _trace(answer)
    verb = "gives another repository:" if answer.substituted else "is"
    facts = [("weights", answer.format)]
    if answer.quantize_on_load:
        facts[0] = ("weights", f"{answer.format}, quantized on load from {answer.weights}")
    if answer.commit:
        facts.append(("commit", answer.commit))
    gated = {False: "not gated", None: "gating unknown"}.get(
        answer.gated if not isinstance(answer.gated, str) else True, f"gated ({answer.gated})"
    )
    facts += [("access", f"{answer.access.replace('_', ' ')} ({gated})"), ("source", answer.source)]
    here = "no"
    if answer.cached is not None:
        here = "yes" if answer.cached.complete else "in part"
        here += f", {human_size(answer.cached.bytes)}"
    facts.append(("in this cache", here))
    rows = "".join(f"<dt>{key}</dt><dd>{html.escape(value)}</dd>" for key, value in facts)
    return (
        f'<p class="answer">{html.escape(answer.requested)} {verb}'
        f" <strong>{html.escape(answer.repo_id)}</strong></p><dl>{rows}</dl>{_trace(answer)}"
    )


def refusal_html(error: MdlError) -> str:
    from mdl.service.http_errors import body_of

    shown = body_of(error)["error"]
    lines = [shown["message"], shown["why"], shown["next"]]
    text = "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)
    return f'<div class="refused" role="alert">{text}</div>'


def _trace(answer: "Resolution") -> str:
    if not answer.trace:
        return ""
    steps = "".join(
        f'<li><span class="{html.escape(step.verdict)}">{_MARKS.get(step.verdict, "noted")}</span>'
        f" {html.escape(step.candidate)}: {html.escape(step.reason)}</li>"
        for step in answer.trace
    )
    also = ""
    if answer.alternatives:
        also = f"<p>Also there: {html.escape(', '.join(answer.alternatives))}</p>"
    return f'<h3>Why</h3><ol class="trace">{steps}</ol>{also}'


async def _preview(service: "Service", max_size: str, unused_for: str) -> str:
    shown = ""
    if max_size or unused_for:
        try:
            fields = Prune(kind="prune", max_size=max_size or None, unused_for=unused_for or None)
            policy = policy_of(fields, service.settings.cache)
            plan = await service.keeper.reading.run(lambda held: plan_prune(held, policy))
            shown = _plan_html(plan)
        except MdlError as error:
            shown = refusal_html(error)
    return f"""<section aria-labelledby="prune"><h2 id="prune">What would a prune remove?</h2>
<form action="/#prune" method="get">
<p><label for="max_size">Keep the cache under</label>
<input id="max_size" name="max_size" value="{html.escape(max_size)}" placeholder="200GB"></p>
<p><label for="unused_for">and remove what was not used for</label>
<input id="unused_for" name="unused_for" value="{html.escape(unused_for)}" placeholder="30d"></p>
<p><button type="submit">Preview</button></p></form>
<p class="totals">A preview changes nothing. <code>mdl cache prune</code> removes, into the
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
        return "<p>Nothing would go.</p>"
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="What would go"><table>'
        f"<caption>{len(plan.remove)} would go, {len(plan.keep)} stay;"
        f" the disk regains {human_size(plan.freed)}.</caption><thead><tr>"
        '<th scope="col">Repository</th><th scope="col">Revision</th>'
        '<th scope="col" class="number">Size</th><th scope="col">Why</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
