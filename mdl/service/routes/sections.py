"""Sections of the page besides a name's resolution and the cache."""

import html
from typing import TYPE_CHECKING, Any

from fastapi import Request

from mdl.cachemgr.remove import PrunePlan, plan_prune, removal_effect
from mdl.errors import MdlError
from mdl.formatting import counted, human_ago, human_size
from mdl.service.auth import may
from mdl.service.cache import plan_json, policy_of
from mdl.service.cache_schemas import Prune
from mdl.service.resolving import error_html
from mdl.service.routes.changes import act_form, page_key
from mdl.service.routes.common import caller_of, service_of

if TYPE_CHECKING:
    from mdl.cachemgr import Cache
    from mdl.service.state import Service

_RUNS = 20


def downloads_section(service: "Service") -> str:
    """What `mdl serve --hub` is downloading now; empty without `--hub`."""
    if service.hub is None:
        return ""
    rows = "".join(map(_download, service.hub.downloads()))
    table = (
        '<table class="cards"><thead><tr><th scope="col">File</th><th scope="col">Progress</th>'
        '<th scope="col" class="number">Speed</th><th scope="col">Time left</th>'
        f'<th scope="col">For</th></tr></thead><tbody>{rows}</tbody></table>'
    )
    return (
        '<section id="downloads" aria-labelledby="downloading"><h2 id="downloading">What is being'
        f" downloaded?</h2>{table if rows else '<p>Nothing at the moment.</p>'}</section>"
    )


def _download(each: dict[str, Any]) -> str:
    size, arrived, speed = each["size"], each["arrived"], each["bytes_per_second"]
    done = f"{human_size(arrived)} of {human_size(size)}"
    return (
        f'<tr><th scope="row">{html.escape(each["path"])}<br>'
        f"<small>{html.escape(each['repo_id'])}</small></th>"
        f'<td data-label="Progress"><progress max="{size}" value="{arrived}">{done}</progress>'
        f" {done}</td>"
        f'<td class="number" data-label="Speed">{_speed(speed)}</td>'
        f'<td data-label="Time left">{_time_left(size - arrived, speed)}</td>'
        f'<td data-label="For">{html.escape(_clients(each["asked_by"]))}</td></tr>'
    )


def _speed(speed: float) -> str:
    return f"{human_size(speed)}/s" if speed else "waiting"


def _time_left(remaining: int, speed: float) -> str:
    if not speed:
        return "-"
    minutes = remaining / speed / 60
    if minutes < 1:
        return "under a minute"
    if minutes < 90:
        return counted(round(minutes), "minute")
    return counted(round(minutes / 60), "hour")


def _clients(addresses: list[str]) -> str:
    """The first of them, and how many more."""
    more = len(addresses) - 3
    return ", ".join(addresses[:3]) + (f" and {more} more" if more > 0 else "")


async def runs_section(service: "Service") -> str:
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


async def prune_section(request: Request, max_size: str, unused_for: str) -> str:
    """A form to ask what a prune would remove, and the plan where it was asked."""
    shown = ""
    if max_size or unused_for:
        fields = Prune(kind="prune", max_size=max_size or None, unused_for=unused_for or None)
        key = page_key(request) if may(caller_of(request).role, "admin") else None
        try:
            reading = service_of(request).cache.reading
            shown = await reading.run(lambda cache: _prune_plan(cache, fields, key))
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


def _prune_plan(cache: "Cache", wanted: Prune, key: str | None) -> str:
    """The plan, and the button that carries it out for those who may."""
    plan = plan_prune(cache, policy_of(wanted, cache.settings.cache))
    shown = _plan_html(plan)
    if key is None or not plan.remove:
        return shown
    effect = removal_effect(cache, plan.freed, now=not cache.settings.cache.trash_days)
    return shown + act_form(wanted, plan_json(cache, wanted)["digest"], key, effect)


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
        f"<caption>{len(plan.remove)} to remove,"
        f" {human_size(plan.freed)}; {len(plan.keep)} to keep.</caption><thead><tr>"
        '<th scope="col">Repository</th><th scope="col">Revision</th>'
        '<th scope="col" class="number">Size</th><th scope="col">Why</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
