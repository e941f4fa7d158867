"""A model's formats side by side: what a request takes, its size and memory, who may read it."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from mdl.formats import ModelShape, shape_of
from mdl.formatting import human_size
from mdl.resolver import bytes_by_name, memory_needed

if TYPE_CHECKING:
    from mdl.resolver import Family, Member

_TOKENS = 8192
_LARGEST_CONFIG = 1 << 20  # bytes
_MADE_ON_LOAD = ("bnb-4bit", "8bit", "fp8")


class _Row(NamedTuple):
    """One format. Sizes are texts, with `about` where only the model's name tells them."""

    format: str
    member: "Member"
    download: str
    memory: str
    made_on_load: bool


def formats_html(family: "Family", asked: str, format: str) -> str:
    """A table of the formats that can be asked for; empty where there is nothing to compare.

    Args:
        asked: the name that was asked for.
        format: the format that was.
    """
    members = {member.repo_id.lower(): member for member in family.members}
    shape = _shape(family)
    rows = [
        _row(each, members[repo_id.lower()], family.base, shape)
        for each, repo_id in family.requests.items()
        if repo_id is not None and repo_id.lower() in members
    ]
    if len(rows) < 2:
        return ""
    lines = "".join(_line(row, asked, is_asked=row.format == format) for row in rows)
    cache = f", a KV cache of {_TOKENS:,} tokens," if shape is not None else ""
    return (
        f'<h3>Its formats</h3><table class="cards"><caption>Memory is for weights{cache} and'
        ' working memory.</caption><thead><tr><th scope="col">Format</th>'
        '<th scope="col">Repository</th><th scope="col" class="number">Download</th>'
        '<th scope="col" class="number">Memory</th><th scope="col">Access</th>'
        f'<th scope="col">Here</th></tr></thead><tbody>{lines}</tbody></table>'
    )


def _row(format: str, member: "Member", base: str, shape: ModelShape | None) -> _Row:
    made = format in _MADE_ON_LOAD and member.format == "16bit"
    sizes = [size for _, size in member.variants if size] + ([member.size] if member.size else [])
    whole = member.cached.bytes if member.cached is not None and member.cached.complete else None
    known = sizes[0] if sizes else whole
    guess = bytes_by_name(base, member.format)
    download = member.size_text or (human_size(whole) if whole else _about(guess))
    weights = known if not made else None
    loaded = weights or bytes_by_name(base, format)
    memory = memory_needed(loaded, shape, _TOKENS) if loaded else None
    text = human_size(memory) if weights else _about(memory)
    return _Row(format, member, download, text, made)


def _about(size: int | None) -> str:
    return f"about {human_size(size)}" if size else ""


def _line(row: _Row, asked: str, *, is_asked: bool) -> str:
    member = row.member
    query = html.escape(urlencode({"name": asked, "format": row.format}))
    shown = f'<a href="/?{query}">{html.escape(row.format)}</a>'
    if is_asked:
        shown = f'<strong aria-current="true">{html.escape(row.format)}</strong>'
    made = "<br><small>quantized on load</small>" if row.made_on_load else ""
    gated = "not gated" if member.gated == "false" else "unknown"
    if member.gated not in (None, "false"):
        access = "" if member.access == "unknown" else f", {member.access.replace('_', ' ')}"
        gated = f"gated ({member.gated}){access}"
    here = "" if member.cached is None else human_size(member.cached.bytes)
    if member.cached is not None and not member.cached.complete:
        here += " of it"
    return (
        f'<tr><th scope="row">{shown}{made}</th>'
        f'<td data-label="Repository">{html.escape(member.repo_id)}</td>'
        f'<td class="number" data-label="Download">{row.download}</td>'
        f'<td class="number" data-label="Memory">{row.memory}</td>'
        f'<td data-label="Access">{html.escape(gated)}</td>'
        f'<td data-label="Here">{here}</td></tr>'
    )


def _shape(family: "Family") -> ModelShape | None:
    """What the KV cache depends on, by a configuration in the cache."""
    for member in family.members:
        if member.cached is not None and member.cached.path is not None:
            path = Path(member.cached.path, "config.json")
            try:
                if path.stat().st_size <= _LARGEST_CONFIG:
                    config = json.loads(path.read_bytes())
                    if isinstance(config, Mapping) and (shape := shape_of(config)) is not None:
                        return shape
            except (OSError, ValueError):
                continue
    return None
