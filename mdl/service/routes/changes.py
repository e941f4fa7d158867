"""Removing and undoing on the page, for admins: the plan first, then exactly that plan."""

import hmac
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError

from mdl.cachemgr.remove import last_change, removal_effect
from mdl.errors import MdlError, NoAccessError, UsageError
from mdl.formatting import counted, human_ago, human_size
from mdl.service.auth import may
from mdl.service.cache import act, plan_json, undo_plan
from mdl.service.cache_schemas import Plan, Remove, Undo
from mdl.service.resolving import error_html
from mdl.service.routes.common import caller_of, service_of

if TYPE_CHECKING:
    from mdl.cachemgr import Cache

_LISTED = 20  # files or folders in one plan
_PLAN: TypeAdapter[Any] = TypeAdapter(Plan)


async def change_section(request: Request, targets: Sequence[str], failed: MdlError | None) -> str:
    """The plan of removing what was selected, and the last change; for admins only.

    Args:
        targets: what was selected, as `mdl cache rm` takes it.
        failed: why the change asked for was not made.
    """
    if not may(caller_of(request).role, "admin"):
        return ""
    cache = service_of(request).cache
    key = page_key(request)
    parts = [error_html(failed)] if failed is not None else []
    try:
        if targets:
            parts.append(await cache.reading.run(lambda opened: _removal(opened, targets, key)))
        parts.append(await cache.reading.run(lambda opened: _last(opened, key)))
    except MdlError as error:
        parts.append(error_html(error))
    shown = "".join(parts)
    return (
        '<section id="change" aria-labelledby="changes"><h2 id="changes" tabindex="-1">Changes</h2>'
        f"{shown}</section>"
    )


def _removal(cache: "Cache", targets: Sequence[str], key: str) -> str:
    wanted = Remove(kind="rm", target=list(targets), all_casings=True)
    plan = plan_json(cache, wanted)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(each["folder"])}</th>'
        f'<td data-label="What">{html.escape(_what(each))}</td></tr>'
        for each in plan["remove"][:_LISTED]
    )
    more = len(plan["remove"]) - _LISTED
    note = f"<p>And {counted(more, 'more folder')}.</p>" if more > 0 else ""
    effect = removal_effect(cache, plan["freed"], now=not cache.settings.cache.trash_days)
    return (
        '<h3>Remove the selected?</h3><table class="cards"><thead><tr><th scope="col">Folder</th>'
        f'<th scope="col">What</th></tr></thead><tbody>{rows}</tbody></table>{note}'
        + act_form(wanted, plan["digest"], key, effect, '<a href="/#cached">Cancel</a>')
    )


def _what(removed: dict[str, Any]) -> str:
    if removed["whole"]:
        return "the whole repository"
    named = [f"revision {commit[:12]}" for commit in removed["commits"]] + removed["files"]
    more = len(named) - _LISTED
    return ", ".join(named[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _last(cache: "Cache", key: str) -> str:
    last = last_change(cache)
    if last is None:
        return "<p>Nothing was changed yet.</p>"
    freed = last.detail.get("freed")
    size = f", {human_size(freed)}" if freed else ""
    when = human_ago(last.finished or last.started)
    said = f"<p>The last change: {html.escape(f'{last.kind}: {last.summary}{size}, {when}')}.</p>"
    if last.state == "emptied":
        return f"{said}<p>It cannot be undone: its files were erased from the trash.</p>"
    return said + act_form(Undo(kind="undo"), undo_plan(last)["digest"], key, "Undo it")


def act_form(wanted: BaseModel, digest: str, key: str, label: str, beside: str = "") -> str:
    """A form with one button, which carries out exactly the plan with this digest.

    Args:
        beside: HTML beside the button.
    """
    fields = {"plan": wanted.model_dump_json(), "digest": digest, "key": key}
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{html.escape(value)}">'
        for name, value in fields.items()
    )
    button = f'<p><button type="submit">{html.escape(label)}</button> {beside}</p>'
    return f'<form action="/page/act" method="post">{hidden}{button}</form>'


def page_key(request: Request) -> str:
    return service_of(request).tokens.page_key(request.headers.get("authorization"))


async def act_on_form(request: Request) -> None:
    """Carry out the plan of a form that this page made.

    Raises:
        NoAccessError: it was not made by this page for this caller.
        UsageError: it is not a form of the page.
        MdlError: the plan has changed, or cannot be carried out.
    """
    fields = parse_qs((await request.body()).decode("utf-8", "replace"))
    given = {name: values[0] for name, values in fields.items()}
    if not hmac.compare_digest(given.get("key", "").encode(), page_key(request).encode()):
        raise NoAccessError(
            "This form was not made by this page for you.",
            next="Open the page again, and look at the plan.",
        )
    try:
        wanted = _PLAN.validate_json(given.get("plan", ""))
    except ValidationError as error:
        raise UsageError("This is not a plan.", next="Open the page again.") from error
    cache = service_of(request).cache
    try:
        await cache.changing.run(lambda opened: act(opened, wanted, given.get("digest", "")))
    finally:
        cache.forget()
