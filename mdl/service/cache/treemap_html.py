"""The cache's treemap on the page: the path above it, a picture for each width, its legend."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from mdl.cachemgr.index import COLOURS, Box, Tile, compose, legend, place_of, svg_tiles

if TYPE_CHECKING:
    from mdl.cachemgr import CachedRepo

# For a wide and for a narrow screen; the style sheet shows one of them.
_SHAPES = (("wide", Box(0, 0, 900, 440)), ("narrow", Box(0, 0, 400, 560)))


class View(NamedTuple):
    """What of the cache the page shows; it is the page's address.

    Attributes:
        at: where the treemap is: nothing, or a type, an owner, a repository, a commit below each
            other.
        colour: what a tile's colour says, `age` or `type`.
        sort: the table's order, `size`, `name` or `used`.
        filter: only repositories with these letters in their name.
    """

    at: tuple[str, ...] = ()
    colour: str = "age"
    sort: str = "size"
    filter: str = ""

    def address(self, at: tuple[str, ...] | None = None) -> str:
        """The page's address for this view, or for it at another place."""
        place = self.at if at is None else at
        fields = {"at": "|".join(place), "colour": self.colour, "sort": self.sort,
                  "filter": self.filter}  # fmt: skip
        default = View()._asdict() | {"at": ""}
        given = {key: value for key, value in fields.items() if value != default[key]}
        return f"/?{urlencode(given, errors='surrogateescape')}#cached"

    def link(self) -> str:
        return html.escape(self.address())

    def shows(self, repo: "CachedRepo") -> bool:
        place = place_of(repo)[: len(self.at)]
        return place == self.at[:3] and self.filter.lower() in repo.repo_id.lower()


def treemap_html(tiles: Sequence[Tile], view: View, now: float) -> str:
    """The picture with its path above and its legend below; empty where nothing has a size."""
    if not any(tile.size > 0 for tile in tiles):
        return _path(view)
    drawn = ""
    for width, box in _SHAPES:
        shapes = list(compose(tiles, box, view.colour, now))
        drawn += (
            f'<svg class="treemap {width}" viewBox="0 0 {box.width} {box.height}" role="group"'
            ' aria-label="Sizes on disk; the table below says the same">'
            f"{svg_tiles(shapes, now, view.address)}</svg>"
        )
    return f"{_path(view)}{drawn}{_legend(legend(shapes, view.colour), view)}"


def _path(view: View) -> str:
    """Where the picture is, as links upwards."""
    steps = [("Everything", view._replace(at=()))]
    for level, key in enumerate(view.at):
        name = (f"{key}s", key or "(no owner)", key.rpartition("/")[2], key[:12])[level]
        steps.append((name, view._replace(at=view.at[: level + 1])))
    links = [f'<a href="{to.link()}">{html.escape(name)}</a>' for name, to in steps[:-1]]
    links.append(f'<span aria-current="page">{html.escape(steps[-1][0])}</span>')
    items = "".join(f"<li>{link}</li>" for link in links)
    return f'<nav aria-label="Where the picture is"><ol class="path">{items}</ol></nav>'


def _legend(keys: Sequence[tuple[str, str]], view: View) -> str:
    items = "".join(
        f'<li><svg viewBox="0 0 16 16" aria-hidden="true"><rect width="16" height="16"'
        f' fill="{COLOURS[key]}"/></svg>{html.escape(words)}</li>'
        for key, words in keys
    )
    other, words = ("type", "Colour by type") if view.colour == "age" else ("age", "Colour by age")
    link = f'<a href="{view._replace(colour=other).link()}">{words}</a>'
    return f'<ul class="legend">{items}<li>{link}</li></ul>'
