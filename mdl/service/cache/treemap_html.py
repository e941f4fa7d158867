"""The cache as a treemap: from types to owners, repositories and revisions, a link a tile."""

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from mdl.cachemgr.index import Box, squarify
from mdl.formatting import human_ago, human_size

if TYPE_CHECKING:
    from mdl.cachemgr import CachedRepo

WIDTH, HEIGHT = 1000.0, 420.0
TILES = 120
_DAY = 86400.0
AGES = (
    (_DAY, "used today"),
    (7 * _DAY, "this week"),
    (30 * _DAY, "this month"),
    (180 * _DAY, "this half-year"),
    (float("inf"), "longer ago"),
)
TYPES = ("model", "dataset", "space", "kernel")
# Widths of a letter, and heights of a line, in the picture's units: on a wide and a narrow screen.
_LETTER, _LINE = 7.6, 24.0
_NARROW_LETTER, _NARROW_LINE = 25.0, 60.0


class View(NamedTuple):
    """What of the cache the page shows; it is the page's address.

    Attributes:
        at: where the treemap is: nothing, or a type, an owner, a repository below each other.
        colour: what a tile's colour says, `age` or `type`.
        sort: the table's order, `size`, `name` or `used`.
        filter: only repositories with these letters in their name.
    """

    at: tuple[str, ...] = ()
    colour: str = "age"
    sort: str = "size"
    filter: str = ""

    def link(self) -> str:
        fields = {"at": "|".join(self.at), "colour": self.colour, "sort": self.sort,
                  "filter": self.filter}  # fmt: skip
        default = View()._asdict() | {"at": ""}
        given = {key: value for key, value in fields.items() if value != default[key]}
        return html.escape(f"/?{urlencode(given, errors='surrogateescape')}#cached")

    def shows(self, repo: "CachedRepo") -> bool:
        place = (repo.repo_type, owner_of(repo), repo.repo_id)
        return place[: len(self.at)] == self.at and self.filter.lower() in repo.repo_id.lower()


class Tile(NamedTuple):
    """One rectangle; `view` is where it leads, `repos` what is inside."""

    label: str
    size: int
    used: float | None
    repo_type: str
    view: View | None
    note: str = ""
    repos: Sequence["CachedRepo"] = ()


def counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def owner_of(repo: "CachedRepo") -> str:
    owner, slash, _ = repo.repo_id.partition("/")
    return owner if slash else ""


def tiles_of(repos: Sequence["CachedRepo"], view: View) -> list[Tile]:
    """The next level below `view.at`, largest first; a level with one entry is skipped."""
    level = len(view.at)
    if level >= 3:
        found = [
            Tile(f"{revision.commit[:12]} {' '.join(revision.refs)}".strip(), revision.size,
                 revision.last_used or repo.last_used, repo.repo_type, None)
            for repo in repos
            for revision in repo.revisions
        ]  # fmt: skip
        return sorted(found, key=lambda tile: -tile.size)
    groups: dict[str, list[CachedRepo]] = {}
    for repo in repos:
        key = (repo.repo_type, owner_of(repo), repo.repo_id)[level]
        groups.setdefault(key, []).append(repo)
    if level < 2 and len(groups) == 1:
        return tiles_of(repos, view._replace(at=(*view.at, *groups)))
    found = [_group(key, of_it, view) for key, of_it in groups.items()]
    return sorted(found, key=lambda tile: (-tile.size, tile.label))


def _group(key: str, repos: Sequence["CachedRepo"], view: View) -> Tile:
    level = len(view.at)
    count = "" if level == 2 else counted(len(repos), "repository", "repositories")
    used = max(repo.last_used or 0.0 for repo in repos)
    size = sum(repo.size_on_disk for repo in repos)
    below = view._replace(at=(*view.at, key))
    return Tile(_name(key, level), size, used or None, repos[0].repo_type, below, count, repos)


def _name(key: str, level: int) -> str:
    """A type's, an owner's or a repository's name below its owner's."""
    return (f"{key}s", key or "(no owner)", key.rpartition("/")[2])[level]


def treemap_html(repos: Sequence["CachedRepo"], view: View, now: float) -> str:
    """The picture with its path above and its legend below; empty where nothing has a size."""
    tiles = [tile for tile in tiles_of(repos, view) if tile.size > 0]
    if not tiles:
        return ""
    rest = tiles[TILES:]
    if rest:
        size = sum(tile.size for tile in rest)
        label = f"{len(rest):,} smaller ones"
        tiles = [*tiles[:TILES], Tile(label, size, None, "rest", None)]
    order = sorted(range(len(tiles)), key=lambda n: -tiles[n].size)
    boxes = squarify([float(tiles[n].size) for n in order], Box(0, 0, WIDTH, HEIGHT))
    drawn = "".join(_tile(tiles[n], box, view, now) for n, box in zip(order, boxes, strict=True))
    return (
        f"{_path(view)}"
        f'<svg class="treemap" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="group"'
        f' aria-label="Sizes on disk; the table below says the same">{drawn}</svg>'
        f"{_legend(view)}"
    )


def _tile(tile: Tile, box: Box, view: View, now: float) -> str:
    used = "never used" if tile.used is None else f"used {human_ago(tile.used, now)}"
    said = [tile.label, tile.note, human_size(tile.size), used if tile.repo_type != "rest" else ""]
    words = html.escape(", ".join(each for each in said if each))
    drawn = _inside(tile, box, now)
    kind = "frame" if drawn else _kind(tile, view, now)
    inside = (
        f"<title>{words}</title>"
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}"'
        f' height="{box.height:.1f}"/>{drawn}{_label(tile, box)}'
    )
    if tile.view is None:
        return f'<g class="tile {kind}" role="img" aria-label="{words}">{inside}</g>'
    return f'<a href="{tile.view.link()}" aria-label="{words}" class="tile {kind}">{inside}</a>'


def _kind(tile: Tile, view: View, now: float) -> str:
    if tile.repo_type == "rest":
        return "rest"
    return f"age{age_of(tile.used, now)}" if view.colour == "age" else f"type-{tile.repo_type}"


def _inside(tile: Tile, box: Box, now: float) -> str:
    """What a type's or an owner's tile consists of, without names."""
    room = Box(box.x + 5, box.y + 2 * _LINE, box.width - 10, box.height - 2 * _LINE - 5)
    if tile.view is None or len(tile.view.at) > 2 or room.width < 60 or room.height < 40:
        return ""
    inner = [each for each in tiles_of(tile.repos, tile.view) if each.size > 0][:TILES]
    boxes = squarify([float(each.size) for each in inner], room)
    return "".join(
        f'<rect class="{_kind(each, tile.view, now)}" x="{at.x:.1f}" y="{at.y:.1f}"'
        f' width="{at.width:.1f}" height="{at.height:.1f}"/>'
        for each, at in zip(inner, boxes, strict=True)
    )


def _label(tile: Tile, box: Box) -> str:
    """The whole name, or none; `narrow` where it also fits in the letters of a small screen."""
    longest = max(len(tile.label), len(human_size(tile.size)))
    if longest * _LETTER + 14 > box.width or box.height < _LINE:
        return ""
    fits = longest * _NARROW_LETTER + 20 <= box.width and box.height >= _NARROW_LINE
    kind = "narrow" if fits else "wide-only"
    at = f'x="{box.x + 7:.1f}" y="{box.y:.1f}"'
    text = f'<text class="{kind}" {at} dy="1.3em">{html.escape(tile.label)}</text>'
    if box.height >= 2 * _LINE:
        size = human_size(tile.size)
        text += f'<text class="small wide-only" {at} dy="3em">{size}</text>'
    return text


def _path(view: View) -> str:
    """Where the picture is, as links upwards."""
    steps = [("Everything", view._replace(at=()))]
    for level, key in enumerate(view.at):
        steps.append((_name(key, min(level, 2)), view._replace(at=view.at[: level + 1])))
    links = [f'<a href="{to.link()}">{html.escape(name)}</a>' for name, to in steps[:-1]]
    links.append(f'<span aria-current="page">{html.escape(steps[-1][0])}</span>')
    items = "".join(f"<li>{link}</li>" for link in links)
    return f'<nav aria-label="Where the picture is"><ol class="path">{items}</ol></nav>'


def _legend(view: View) -> str:
    keys: Iterable[tuple[str, str]]
    if view.colour == "age":
        keys = ((f"age{n}", text) for n, (_, text) in enumerate(AGES))
        other = f'<a href="{view._replace(colour="type").link()}">Colour by type</a>'
    else:
        keys = ((f"type-{name}", f"{name}s") for name in TYPES)
        other = f'<a href="{view._replace(colour="age").link()}">Colour by last use</a>'
    items = "".join(
        f'<li><svg viewBox="0 0 16 16" aria-hidden="true"><g class="tile {kind}">'
        f'<rect width="16" height="16"/></g></svg>{text}</li>'
        for kind, text in keys
    )
    return f'<ul class="legend">{items}<li>{other}</li></ul>'


def age_of(used: float | None, now: float) -> int:
    """Index into AGES."""
    age = now - used if used is not None else float("inf")
    return next(n for n, (bound, _) in enumerate(AGES) if age <= bound)
