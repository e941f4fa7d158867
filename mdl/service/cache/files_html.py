"""One repository on the page: its revisions and files, to be read and to be selected."""

import html
from collections.abc import Mapping
from typing import Any

from mdl.formatting import counted, human_size
from mdl.service.cache.treemap_html import View

ROWS = 500


def files_html(details: Mapping[str, Any], view: View, *, can_remove: bool) -> str:
    """A table for each revision of a repository, or for the one that the view is at.

    Args:
        details: from `describe`.
    """
    wanted = [
        revision
        for revision in details["revisions"]
        if len(view.at) < 4 or revision["commit"] == view.at[3]
    ]
    target = f"{details['repo_type']}/{details['repo_id']}"
    return "".join(_revision(each, target, can_remove=can_remove) for each in wanted)


def _revision(revision: Mapping[str, Any], target: str, *, can_remove: bool) -> str:
    commit = revision["commit"]
    title = html.escape(" ".join((commit[:12], *revision["refs"])))
    if can_remove:
        title = pick(f"{target}@{commit}", f"Revision {title}")
    caption = f"{title}: {counted(revision['files_total'], 'file')}, {revision['state']}"
    rows = "".join(
        _row(file["path"], human_size(file["size"]), file["state"],
             f"{target}@{commit}:{file['path']}" if can_remove else "")
        for file in revision["files"][:ROWS]
    )  # fmt: skip
    rows += "".join(_row(path, "-", "missing", "") for path in revision["missing"])
    more = len(revision["files"]) - ROWS
    note = f"<p>And {counted(more, 'more file')}.</p>" if more > 0 else ""
    return (
        f'<table class="cards"><caption>{caption}</caption><thead><tr><th scope="col">File</th>'
        '<th scope="col" class="number">Size</th><th scope="col">State</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{note}"
    )


def _row(path: str, size: str, state: str, target: str) -> str:
    name = pick(target, html.escape(path)) if target else html.escape(path)
    return (
        f'<tr><th scope="row">{name}</th><td class="number" data-label="Size">{size}</td>'
        f'<td data-label="State">{state}</td></tr>'
    )


def pick(target: str, label: str) -> str:
    """A box that selects what `mdl cache rm` knows by this name."""
    return (
        '<label class="pick"><input type="checkbox" form="remove" name="remove"'
        f' value="{html.escape(target)}"> {label}</label>'
    )


def remove_form(view: View) -> str:
    """The form of all boxes; it leads to the plan, and changes nothing."""
    return (
        f'<form id="remove" action="/#change" method="get">{hidden_fields(view)}'
        '<p><button type="submit">Remove the selected…</button></p>'
        '<p class="totals">Shows what would happen first.</p></form>'
    )


def hidden_fields(view: View) -> str:
    """What keeps the view when a form is sent."""
    fields = {"at": "|".join(view.at), "colour": view.colour, "sort": view.sort}
    fields |= {"filter": view.filter} if view.filter else {}
    return "".join(
        f'<input type="hidden" name="{key}" value="{html.escape(value)}">'
        for key, value in fields.items()
    )
