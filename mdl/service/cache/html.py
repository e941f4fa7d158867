"""The cache as HTML: totals, what could be freed, a treemap, and a table that says the same."""

import html
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.cachemgr.index import file_tiles, repo_tiles
from mdl.formatting import counted, human_ago, human_size
from mdl.service.cache.files_html import files_html, hidden_fields, pick, remove_form
from mdl.service.cache.treemap_html import View, treemap_html

if TYPE_CHECKING:
    from mdl.cachemgr import CachedRepo, Totals

ROWS = 300
_LONG = 180 * 86400.0  # seconds
_ORDERS = {
    "size": lambda repo: (-repo.size_on_disk, repo.repo_id),
    "name": lambda repo: repo.repo_id.lower(),
    "used": lambda repo: (-(repo.last_used or 0.0), repo.repo_id),
}


class Shown(NamedTuple):
    """What the section shows.

    Attributes:
        view: what of it.
        free: bytes free on its disk, where that is known.
        details: of the repository that the view is at: `mdl cache show --json`.
        can_remove: whether repositories, revisions and files can be selected, to be removed.
    """

    view: View
    free: int | None = None
    details: dict[str, Any] | None = None
    can_remove: bool = False


def cache_html(
    repos: Sequence["CachedRepo"], totals: "Totals", shown: Shown, now: float | None = None
) -> str:
    """The cache as a section of the page."""
    now = time.time() if now is None else now
    view = shown.view
    room = "" if shown.free is None else f" {human_size(shown.free)} free on its disk."
    head = (
        '<h2 id="cached" tabindex="-1">The cache</h2>'
        f'<p class="totals">{counted(totals.repos, "repository")},'
        f" {counted(totals.revisions, 'revision')},"
        f" {human_size(totals.size_on_disk)} on disk.{room}</p>"
    )
    if not repos:
        return head + "<p>The cache is empty.</p>"
    found = [repo for repo in repos if view.shows(repo)]
    if shown.details is not None:
        tiles = file_tiles(shown.details, view.at)
        table = files_html(shown.details, view, can_remove=shown.can_remove)
    else:
        tiles = repo_tiles(found, view.at, None if view.at or view.filter else totals)
        table = _filter(view) + _table(found, shown, now)
    table += remove_form(view) if shown.can_remove and found else ""
    return head + treemap_html(tiles, view, now) + table + _freeable(repos, totals, now)


def _filter(view: View) -> str:
    return (
        '<form action="/#cached" method="get" id="filter" role="search"><p class="wide">'
        '<label for="filter-text">Show names that contain</label><input id="filter-text"'
        f' name="filter" value="{html.escape(view.filter)}" maxlength="200" autocomplete="off"'
        f' spellcheck="false"></p>{hidden_fields(view._replace(filter=""))}'
        '<p><button type="submit">Filter</button></p></form>'
    )


def _table(found: Sequence["CachedRepo"], shown: Shown, now: float) -> str:
    if not found:
        return "<p>No repository matches.</p>"
    view = shown.view
    ordered = sorted(found, key=_ORDERS[view.sort])
    twice = any(map(duplicated, found))
    rows = "".join(_row(repo, now, shown, twice=twice) for repo in ordered[:ROWS])
    more = ""
    if len(ordered) > ROWS:
        rest = sum(repo.size_on_disk for repo in ordered[ROWS:])
        more = (
            f"<p>And {len(ordered) - ROWS:,} more, {human_size(rest)} in total;"
            " <code>mdl cache ls</code> lists them all.</p>"
        )
    heads = "".join(
        _head(view, key, text, number)
        for key, text, number in (
            ("name", "Repository", False), ("size", "Size", True), ("used", "Last used", False),
            ("", "Duplicates", True), ("", "State", False),
        )
        if twice or text != "Duplicates"
    )  # fmt: skip
    return (
        '<table class="cards"><caption>'
        f"{counted(len(found), 'repository')}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{more}"
    )


def _head(view: View, key: str, text: str, number: bool) -> str:
    kind = ' class="number"' if number else ""
    if not key:
        return f'<th scope="col"{kind}>{text}</th>'
    if view.sort == key:
        order = "ascending" if key == "name" else "descending"
        return f'<th scope="col"{kind} aria-sort="{order}">{text}</th>'
    return f'<th scope="col"{kind}><a href="{view._replace(sort=key).link()}">{text}</a></th>'


def _row(repo: "CachedRepo", now: float, shown: Shown, *, twice: bool) -> str:
    also = [spelling for spelling in repo.spellings if spelling != repo.repo_id]
    names = html.escape(repo.repo_id)
    if shown.can_remove:
        names = pick(f"{repo.repo_type}/{repo.repo_id}", names)
    if repo.repo_type != "model":
        names += f" <small>{html.escape(repo.repo_type)}</small>"
    if also:
        names += f"<br><small>also as {html.escape(', '.join(also))}</small>"
    state = html.escape(repo.state)
    if repo.pinned:
        state += ", pinned"
    if repo.problems:
        state += f"<br><small>{html.escape(repo.problems[0])}</small>"
    copies = duplicated(repo)
    size = human_size(copies) if copies else ""
    column = f'<td class="number" data-label="Duplicates">{size}</td>' if twice else ""
    return (
        f'<tr><th scope="row">{names}</th>'
        f'<td class="number" data-label="Size">{human_size(repo.size_on_disk)}</td>'
        f'<td class="when" data-label="Last used">{age_text(repo, now)}</td>'
        f"{column}"
        f'<td data-label="State">{state}</td></tr>'
    )


def _freeable(repos: Sequence["CachedRepo"], totals: "Totals", now: float) -> str:
    """What could be freed, by reason, with the command that does it."""
    old = [repo for repo in repos if not repo.pinned and now - (repo.last_used or now) > _LONG]
    reasons = (
        ("In the trash", totals.trash_size, "mdl cache trash empty"),
        ("The same files in several casings", sum(map(duplicated, repos)), "mdl cache normalize"),
        ("Interrupted downloads", totals.incomplete_size, "mdl cache prune --incomplete"),
        (f"Not used for half a year ({counted(len(old), 'repository')})",
         sum(repo.reclaimable for repo in old), "mdl cache prune --unused-for 180d"),
    )  # fmt: skip
    rows = "".join(
        f'<tr><th scope="row">{reason}</th><td class="number" data-label="Size">'
        f'{human_size(size)}</td><td data-label="Command"><code>{command}</code></td></tr>'
        for reason, size, command in reasons
        if size
    )
    if not rows:
        return ""
    return (
        '<h3>What could be freed?</h3><table class="cards"><thead><tr><th scope="col">Reason</th>'
        '<th scope="col" class="number">Size</th><th scope="col">Command</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def duplicated(repo: "CachedRepo") -> int:
    """Bytes stored once for each casing of a repository: what `normalize` would save."""
    if len(repo.spellings) - len(repo.aliases) < 2:
        return 0
    once = sum(revision.size for revision in repo.revisions)
    return max(0, min(repo.size_on_disk, repo.logical_size) - once)


def age_text(repo: "CachedRepo", now: float) -> str:
    if repo.last_used is None:
        return "never"
    hint = "" if repo.last_used_source == "journal" else " <small>(by file time)</small>"
    day = time.strftime("%Y-%m-%d", time.localtime(repo.last_used))
    return f'<time datetime="{day}" title="{day}">{human_ago(repo.last_used, now)}</time>{hint}'
