"""A resolution as HTML: what the name means, commands to copy, its formats and family, and why."""

import html
import json
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from mdl.errors import MdlError
from mdl.formatting import human_size
from mdl.service.http_errors import body_of
from mdl.service.resolving.formats_html import formats_html

if TYPE_CHECKING:
    from mdl.resolver import Family, Member, Resolution

_VERDICTS = {"accepted": "chosen", "rejected": "rejected", "noted": "noted"}


def resolution_html(resolution: "Resolution", family: "Family | None") -> str:
    """A resolution with its trace, and the family of the model where it is known."""
    related = ""
    if family is not None:
        related = formats_html(family, resolution.requested, resolution.format)
        related += _family(family, resolution.repo_id)
    if resolution.error is not None:
        return error_html(resolution.error) + related + _trace(resolution)
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
        f"{_commands(resolution)}{related}{_trace(resolution)}"
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


def _family(family: "Family", chosen: str) -> str:
    """The model and what was made of it: by format what a request takes, then what there is."""
    formats: dict[str, list[Member]] = {format: [] for format in family.requests}
    for member in family.members:
        if member.repo_id != family.base:
            formats.setdefault(member.format, []).append(member)
    base = "".join(_member(m, chosen) for m in family.members if m.repo_id == family.base)
    rest = "".join(
        f"<li>{html.escape(format)}{_taken(format, family)}"
        + _list(_member(member, chosen) for member in members)
        + "</li>"
        for format, members in sorted(formats.items())
    )
    return f'<h3>Its family</h3><ul class="tree"><li>{base}<ul>{rest}</ul></li></ul>'


def _list(items: Iterable[str]) -> str:
    found = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{found}</ul>" if found else ""


def _taken(format: str, family: "Family") -> str:
    if format not in family.requests:
        return ""
    repo_id = family.requests[format]
    return f" <small>a request takes {html.escape(repo_id or 'none of them')}</small>"


def _member(member: "Member", chosen: str) -> str:
    notes = [member.role] if member.role != "quantized" else []
    notes += [member.format] if member.role == "publisher" else []
    notes += [member.variants_text] if member.variants else []
    notes += [member.size_text] if member.size_text else []
    if member.gated not in (None, "false"):
        notes.append(f"gated ({member.gated}), {member.access.replace('_', ' ')}")
    if member.cached is not None:
        notes.append(f"in this cache, {human_size(member.cached.bytes)}")
    notes += [f"runs in {', '.join(member.runtimes)}"] if member.runtimes else []
    notes += [member.against] if member.against else []
    link = _link(member.repo_id, exact=True)
    if member.repo_id == chosen:
        link = f"<strong>{link}</strong>"
    return f"{link} <small>{html.escape('; '.join(notes))}</small>"


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
