"""A resolution as HTML: what the name means, commands to copy, its family, and why."""

import html
import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from mdl.errors import MdlError
from mdl.formatting import human_size
from mdl.service.http_errors import body_of

if TYPE_CHECKING:
    from mdl.resolver import Resolution
    from mdl.service.resolving.resolver_pool import Relative

_VERDICTS = {"accepted": "chosen", "rejected": "rejected", "noted": "noted"}


def resolution_html(resolution: "Resolution", family: Sequence["Relative"]) -> str:
    """A resolution with its trace; `family` is what the catalogue has of the same model."""
    if resolution.error is not None:
        return error_html(resolution.error) + _trace(resolution)
    verb = "resolves to" if resolution.substituted else "is"
    weights = resolution.format
    if resolution.quantize_on_load:
        weights += f", quantized on load from {resolution.weights}"
    facts = [("weights", weights)]
    if resolution.commit:
        facts.append(("commit", resolution.commit))
    gated = {False: "not gated", None: "gating unknown"}.get(
        resolution.gated if not isinstance(resolution.gated, str) else True,
        f"gated ({resolution.gated})",
    )
    facts += [
        ("access", f"{resolution.access.replace('_', ' ')} ({gated})"),
        ("source", resolution.source),
        ("in this cache", _cached(resolution)),
    ]
    rows = "".join(f"<dt>{key}</dt><dd>{html.escape(value)}</dd>" for key, value in facts)
    return (
        f'<p class="result">{html.escape(resolution.requested)} {verb}'
        f" <strong>{html.escape(resolution.repo_id)}</strong></p><dl>{rows}</dl>"
        f"{_commands(resolution)}{_family(family, resolution.repo_id)}{_trace(resolution)}"
    )


def _cached(resolution: "Resolution") -> str:
    if resolution.cached is None:
        return "no"
    state = "yes" if resolution.cached.complete else "partly"
    return f"{state}, {human_size(resolution.cached.bytes)}"


def _commands(resolution: "Resolution") -> str:
    """What fetches just this, in a terminal and in Python."""
    name = resolution.requested
    shown = resolution.format + (f":{resolution.variant}" if resolution.variant else "")
    commands = (
        ("In a terminal", f"mdl pull {shlex.quote(name)} --format {shown}"),
        ("In Python", f'mdl.pull({json.dumps(name)}, format="{shown}").path'),
    )
    return "".join(
        f'<p class="label">{label}</p><pre class="command"><code>{html.escape(text)}</code></pre>'
        for label, text in commands
    )


def _family(family: Sequence["Relative"], chosen: str) -> str:
    """The model and what was made of it: a tree of names, then formats, then repositories."""
    if not family:
        return ""
    names: dict[str, dict[str, list[Relative]]] = {}
    for each in family:
        names.setdefault(each.name, {}).setdefault(each.format, []).append(each)
    tree = "".join(
        f"<li>{_link(name, exact=True)}<ul>{_formats(formats, chosen)}</ul></li>"
        for name, formats in names.items()
    )
    return f'<h3>Its family</h3><ul class="tree">{tree}</ul>'


def _formats(formats: dict[str, list["Relative"]], chosen: str) -> str:
    return "".join(
        f"<li>{html.escape(format)}<ul>"
        + "".join(f"<li>{_relative(each, chosen)}</li>" for each in relatives)
        + "</ul></li>"
        for format, relatives in formats.items()
    )


def _relative(each: "Relative", chosen: str) -> str:
    notes = [each.variant] if each.variant else []
    if each.gated not in (None, "false"):
        notes.append("gated")
    if each.cached is not None:
        notes.append(f"in this cache, {human_size(each.cached)}")
    if each.bad:
        notes.append(f"known to be bad: {each.bad}")
    link = _link(each.repo_id, exact=True)
    if each.repo_id == chosen:
        link = f"<strong>{link}</strong>"
    return f"{link} <small>{html.escape(', '.join(notes))}</small>"


def _link(name: str, *, exact: bool) -> str:
    query = urlencode({"name": name, "exact": int(exact)})
    return f'<a href="/?{html.escape(query)}">{html.escape(name)}</a>'


def error_html(error: MdlError) -> str:
    shown = body_of(error)["error"]
    lines = [shown["message"], shown["why"], shown["next"]]
    text = "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)
    return f'<div class="refused" role="alert">{text}</div>'


def _trace(resolution: "Resolution") -> str:
    if not resolution.trace:
        return ""
    steps = "".join(
        f'<li><span class="{html.escape(step.verdict)}">'
        f"{_VERDICTS.get(step.verdict, 'noted')}</span>"
        f" {html.escape(step.candidate)}: {html.escape(step.reason)}</li>"
        for step in resolution.trace
    )
    also = ""
    if resolution.alternatives:
        also = f"<p>Alternatives: {html.escape(', '.join(resolution.alternatives))}</p>"
    return f'<h3>Why</h3><ol class="trace">{steps}</ol>{also}'
