"""The cache as HTML: a treemap in SVG, and a table that says the same in words."""

import hashlib
import html
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdl.cachemgr.index import Box, squarify
from mdl.formatting import human_ago, human_size

if TYPE_CHECKING:
    from mdl.cachemgr import CachedRepo, Totals

WIDTH, HEIGHT = 1000.0, 420.0
# The largest repositories of a large cache; the rest is one tile.
TILES, ROWS = 60, 300
_DAY = 86400.0
AGES = (
    (_DAY, "used today"),
    (7 * _DAY, "this week"),
    (30 * _DAY, "this month"),
    (180 * _DAY, "this half-year"),
    (float("inf"), "longer ago"),
)


def cache_html(repos: Sequence["CachedRepo"], totals: "Totals", now: float | None = None) -> str:
    """The cache as a section of the page: totals, treemap, legend, table."""
    now = time.time() if now is None else now
    ordered = sorted(repos, key=lambda repo: (-repo.size_on_disk, repo.repo_id))
    head = (
        '<h2 id="cached">The cache</h2>'
        f'<p class="totals">{totals.repos} repositories, {totals.revisions} revisions,'
        f" {human_size(totals.size_on_disk)} on disk; {human_size(totals.trash_size)} in the"
        f" trash.</p>"
    )
    if not ordered:
        return head + "<p>The cache is empty.</p>"
    return head + _treemap(ordered, now) + _legend() + _table(ordered, now)


def _treemap(ordered: Sequence["CachedRepo"], now: float) -> str:
    shown = [repo for repo in ordered if repo.size_on_disk > 0][:TILES]
    if not shown:
        return ""
    sizes = [float(repo.size_on_disk) for repo in shown]
    rest = sum(repo.size_on_disk for repo in ordered[len(shown) :])
    tiles = [
        _tile(repo, rect, now)
        for repo, rect in zip(
            shown,
            squarify([*sizes, float(rest)] if rest else sizes, Box(0, 0, WIDTH, HEIGHT)),
            strict=False,
        )
    ]
    return (
        f'<svg class="treemap" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="group"'
        f' aria-label="Repositories by size; the table below says the same">{"".join(tiles)}</svg>'
    )


def _tile(repo: "CachedRepo", rect: Box, now: float) -> str:
    twice = duplicated(repo)
    words = f"{repo.repo_id}, {human_size(repo.size_on_disk)}, {age_text(repo, now)}"
    if twice:
        words += f", {human_size(twice)} of it duplicated"
    text = ""
    # Text only where some of it fits, cut off at the tile's edge; the title has it all.
    if rect.width >= 60 and rect.height >= 24:
        text = f'<text x="7" y="1.4em">{html.escape(repo.repo_id)}</text>'
        if rect.height >= 60:
            text += f'<text class="small" x="7" y="3em">{human_size(repo.size_on_disk)}</text>'
        text = (
            f'<svg x="{rect.x:.1f}" y="{rect.y:.1f}" width="{rect.width - 6:.1f}"'
            f' height="{rect.height:.1f}">{text}</svg>'
        )
    return (
        f'<a href="#{anchor(repo)}" aria-label="{html.escape(words)}"'
        f' class="tile age{age_of(repo, now)}{" twice" if twice else ""}">'
        f"<title>{html.escape(words)}</title>"
        f'<rect x="{rect.x:.1f}" y="{rect.y:.1f}" width="{rect.width:.1f}"'
        f' height="{rect.height:.1f}"/>{text}</a>'
    )


def _legend() -> str:
    items = "".join(
        f'<li><svg viewBox="0 0 16 16" aria-hidden="true"><g class="tile age{n}">'
        f'<rect width="16" height="16"/></g></svg>{text}</li>'
        for n, (_, text) in enumerate(AGES)
    )
    return f'<ul class="legend">{items}<li>dashed: has duplicate files</li></ul>'


def _table(ordered: Sequence["CachedRepo"], now: float) -> str:
    rows = "".join(_row(repo, now) for repo in ordered[:ROWS])
    more = ""
    if len(ordered) > ROWS:
        rest = sum(repo.size_on_disk for repo in ordered[ROWS:])
        more = (
            f"<p>And {len(ordered) - ROWS} smaller ones, {human_size(rest)} in total;"
            " <code>mdl cache ls</code> lists them all.</p>"
        )
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="Repositories"><table>'
        "<caption>Largest first</caption><thead><tr>"
        '<th scope="col">Repository</th><th scope="col" class="number">Size</th>'
        '<th scope="col">Used</th><th scope="col" class="number">Duplicates</th>'
        '<th scope="col">State</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{more}"
    )


def _row(repo: "CachedRepo", now: float) -> str:
    also = [spelling for spelling in repo.spellings if spelling != repo.repo_id]
    names = html.escape(repo.repo_id)
    if also:
        names += f"<br><small>also as {html.escape(', '.join(also))}</small>"
    state = html.escape(repo.state)
    if repo.pinned:
        state += ", pinned"
    if repo.problems:
        state += f"<br><small>{html.escape(repo.problems[0])}</small>"
    twice = duplicated(repo)
    return (
        f'<tr id="{anchor(repo)}"><th scope="row">{names}</th>'
        f'<td class="number">{human_size(repo.size_on_disk)}</td>'
        f'<td class="when">{age_text(repo, now)}</td>'
        f'<td class="number">{human_size(twice) if twice else "-"}</td><td>{state}</td></tr>'
    )


def duplicated(repo: "CachedRepo") -> int:
    """Bytes stored once for each casing of a repository: what `normalize` would save."""
    if len(repo.spellings) - len(repo.aliases) < 2:
        return 0
    once = sum(revision.size for revision in repo.revisions)
    return max(0, min(repo.size_on_disk, repo.logical_size) - once)


def age_of(repo: "CachedRepo", now: float) -> int:
    """Index into AGES."""
    age = now - repo.last_used if repo.last_used is not None else float("inf")
    return next(n for n, (bound, _) in enumerate(AGES) if age <= bound)


def age_text(repo: "CachedRepo", now: float) -> str:
    if repo.last_used is None:
        return "never"
    hint = "" if repo.last_used_source == "journal" else " (by file time)"
    return human_ago(repo.last_used, now) + hint


def anchor(repo: "CachedRepo") -> str:
    """A safe id for a repository's row in the table."""
    key = f"{repo.repo_type}/{repo.repo_id}".encode("utf-8", "surrogateescape")
    return "r" + hashlib.sha256(key).hexdigest()[:12]
