"""Treemaps as pictures: the page's and those of `mdl cache du --plot` are drawn here.

Every tile has its colour and a tooltip, and its whole name where there is room for it. A tile that
consists of others is a frame around them if they can be told apart in it.
"""

import html
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mdl.cachemgr.index.tiles import OTHER, Tile
from mdl.cachemgr.index.treemap import Box, squarify
from mdl.errors import MdlError
from mdl.formatting import human_ago, human_size, shorten

_DAY = 86400.0
AGES = (
    (_DAY, "used today"),
    (7 * _DAY, "this week"),
    (30 * _DAY, "this month"),
    (180 * _DAY, "this half-year"),
    (float("inf"), "longer ago"),
)
# White text on each of them has a contrast of at least 4.5 to 1.
COLOURS = {
    "age0": "#1f6f8b", "age1": "#2c7772", "age2": "#577530", "age3": "#85611a", "age4": "#9c4f2b",
    "model": "#1f6f8b", "dataset": "#85611a", "space": "#577530", "kernel": "#9c4f2b",
    OTHER: "#646c78", "frame": "#363e4a", "frame-inside": "#4a5463",
}  # fmt: skip
_WIDTH, _HEIGHT = 1200.0, 860.0  # of a file
_FONT, _LETTER, _LINE = 13, 7.5, 17.0
_HEAD, _EDGE, _MARGIN = 23.0, 4.0, 6.0
_BREAK = re.compile(r"(?<=[-_/ ])|(?<=\.)(?=\D)")  # where a name may go on in the next line
_LEAST_WIDTH, _LEAST_HEIGHT = 48.0, 26.0  # of what is drawn inside a frame


class Shape(NamedTuple):
    """A tile at its place.

    Attributes:
        colour: a key of `COLOURS`.
        lines: its name and size, whole, or what of them fits.
        depth: how many frames it is inside.
    """

    tile: Tile
    box: Box
    colour: str
    lines: tuple[str, ...]
    depth: int

    @property
    def is_frame(self) -> bool:
        return self.colour.startswith("frame")


def compose(
    tiles: Iterable[Tile], box: Box, colour: str, now: float, depth: int = 0
) -> Iterator[Shape]:
    """Place tiles in a box, frames before what is inside them.

    Args:
        colour: what a colour says: `age` or `type`.
    """
    ordered = sorted((tile for tile in tiles if tile.size > 0), key=lambda tile: -tile.size)
    places = squarify([float(tile.size) for tile in ordered], box)
    for tile, at in zip(ordered, places, strict=True):
        inner = Box(at.x + _EDGE, at.y + _HEAD, at.width - 2 * _EDGE, at.height - _HEAD - _EDGE)
        if tile.inside and inner.width >= _LEAST_WIDTH and inner.height >= _LEAST_HEIGHT:
            yield Shape(tile, at, "frame-inside" if depth else "frame", _heading(tile, at), depth)
            yield from compose(tile.inside, inner, colour, now, depth + 1)
        else:
            yield Shape(tile, at, _colour(tile, colour, now), _label(tile, at), depth)


def _colour(tile: Tile, colour: str, now: float) -> str:
    if tile.kind == OTHER or colour == "type":
        return tile.kind if tile.kind in COLOURS else OTHER
    age = now - tile.used if tile.used is not None else float("inf")
    return f"age{next(n for n, (bound, _) in enumerate(AGES) if age <= bound)}"


def _heading(tile: Tile, box: Box) -> tuple[str, ...]:
    room = int((box.width - 2 * _MARGIN) // _LETTER)
    name = _readable(tile.label)
    both = f"{name} · {human_size(tile.size)}"
    return tuple(text for text in (both, name) if len(text) <= room)[:1]


def _label(tile: Tile, box: Box) -> tuple[str, ...]:
    """The whole name, broken at its own marks, and the size below it; or nothing."""
    room = int((box.width - 2 * _MARGIN) // _LETTER)
    most = int((box.height - _MARGIN) // _LINE)
    name = _wrapped(_readable(tile.label), room)
    if not name or len(name) > most:
        return ()
    size = human_size(tile.size)
    return (*name, size) if len(name) < most and len(size) <= room else tuple(name)


def _wrapped(text: str, room: int) -> list[str]:
    """A text in lines of at most `room` letters; none where a part of it is longer."""
    lines: list[str] = []
    for part in _BREAK.split(text):
        if lines and len(lines[-1]) + len(part.rstrip()) <= room:
            lines[-1] += part
        else:
            lines.append(part)
    return [] if any(len(line.rstrip()) > room for line in lines) else lines


def legend(shapes: Iterable[Shape], colour: str) -> list[tuple[str, str]]:
    """The colours of a picture, each with what it says and its bytes."""
    sizes: dict[str, int] = {}
    for shape in shapes:
        if not shape.is_frame:
            sizes[shape.colour] = sizes.get(shape.colour, 0) + shape.tile.size
    words = {f"age{n}": text for n, (_, text) in enumerate(AGES)}
    words |= {name: f"{name}s" for name in COLOURS if name not in words} | {OTHER: "all the rest"}
    return [(key, f"{words[key]} {human_size(sizes[key])}") for key in COLOURS if key in sizes]


def tooltip(tile: Tile, now: float) -> str:
    used = f"used {human_ago(tile.used, now)}" if tile.used is not None else ""
    parts = (_readable(tile.label), tile.note, human_size(tile.size), used)
    return ", ".join(part for part in parts if part)


def svg_tiles(
    shapes: Iterable[Shape], now: float, link: Callable[[tuple[str, ...]], str] | None = None
) -> str:
    """The tiles as SVG elements; with `link`, those that lead somewhere are links.

    Only the outermost links are reached with the Tab key: they lead to the others.
    """
    drawn = []
    for tile, box, colour, lines, depth in shapes:
        words = html.escape(tooltip(tile, now))
        texts = "".join(
            f'<text x="{box.x + _MARGIN:.1f}" y="{box.y + _LINE * (n + 1) - 1:.1f}">'
            f"{html.escape(line)}</text>"
            for n, line in enumerate(lines)
        )
        inside = (
            f'<title>{words}</title><rect x="{box.x:.1f}" y="{box.y:.1f}"'
            f' width="{box.width:.1f}" height="{box.height:.1f}" fill="{COLOURS[colour]}"/>{texts}'
        )
        if link is None or tile.at is None:
            drawn.append(f'<g class="tile" role="img" aria-label="{words}">{inside}</g>')
        else:
            more = ' tabindex="-1"' if depth else ""
            address = html.escape(link(tile.at))
            drawn.append(
                f'<a class="tile" href="{address}" aria-label="{words}"{more}>{inside}</a>'
            )
    return "".join(drawn)


class Poster(NamedTuple):
    """A treemap as a file has it, with a title, a legend and a date.

    `texts` are (x, y, text, pixels of its letters), `keys` the legend's squares with their colours.
    """

    shapes: Sequence[Shape]
    texts: Sequence[tuple[float, float, str, int]]
    keys: Sequence[tuple[Box, str]]
    now: float


def poster(tiles: Iterable[Tile], title: str, colour: str, now: float | None = None) -> Poster:
    """Lay a picture out.

    Args:
        title: what it shows, with the total.
        colour: as of `compose`.
    """
    now = time.time() if now is None else now
    shapes = list(compose(tiles, Box(0, 46, _WIDTH, _HEIGHT - 46 - 40), colour, now))
    day = time.strftime("%Y-%m-%d", time.localtime(now))
    texts = [(4.0, 30.0, shorten(_readable(title), 100), 18), (_WIDTH - 84, 30.0, day, 14)]
    keys = []
    x, y = 4.0, _HEIGHT - 26
    for key, words in legend(shapes, colour):
        keys.append((Box(x, y, 14, 14), COLOURS[key]))
        texts.append((x + 20, y + 12, words, 14))
        x += 48 + len(words) * 8
    return Poster(shapes, texts, keys, now)


def draw_svg(picture: Poster) -> str:
    """The picture as an SVG document."""
    keys = "".join(
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width}" height="{box.height}"'
        f' fill="{colour}"/>'
        for box, colour in picture.keys
    )
    texts = "".join(
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}">{html.escape(text)}</text>'
        for x, y, text, size in picture.texts
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}"'
        f' viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" font-family="sans-serif">'
        f'<rect width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" fill="#ffffff"/>'
        "<style>.tile rect { stroke: #ffffff; }</style>"
        f'<g font-size="{_FONT}" fill="#ffffff">{svg_tiles(picture.shapes, picture.now)}</g>'
        f'<g fill="#1d2228">{texts}</g>{keys}</svg>\n'
    )


def draw_png(picture: Poster, path: Path, scale: int = 2) -> None:
    """The same picture as pixels.

    Raises:
        MdlError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ModuleNotFoundError as error:
        raise MdlError(
            "Drawing a PNG needs Pillow, which is not installed.",
            next="Name a file that ends in .svg, or run: pip install pillow",
        ) from error
    image = Image.new("RGB", (int(_WIDTH * scale), int(_HEIGHT * scale)), "#ffffff")
    pen = ImageDraw.Draw(image)

    def fill(box: Box, colour: str) -> None:
        corners = (box.x, box.y, box.x + box.width, box.y + box.height)
        pen.rectangle([each * scale for each in corners], fill=colour, outline="#ffffff")

    def write(x: float, y: float, text: str, size: int, colour: str) -> None:
        font = ImageFont.load_default(size * scale)
        pen.text((x * scale, y * scale), text, fill=colour, font=font, anchor="ls")

    for shape in picture.shapes:
        fill(shape.box, COLOURS[shape.colour])
        for n, line in enumerate(shape.lines):
            write(shape.box.x + _MARGIN, shape.box.y + _LINE * (n + 1) - 1, line, _FONT, "#ffffff")
    for box, colour in picture.keys:
        fill(box, colour)
    for x, y, text, size in picture.texts:
        write(x, y, text, size, "#1d2228")
    image.save(path, "PNG")


def _readable(text: str) -> str:
    """Replace control characters and lone surrogates, which XML does not allow."""
    return "".join(character if character.isprintable() else "?" for character in text)
