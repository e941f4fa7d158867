"""A treemap of the cache: areas are bytes on disk, one rectangle a repository.

The layout is the squarified treemap of Bruls, Huizing and van Wijk (2000).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from mdl.cachemgr.types import CachedRepo, Totals
from mdl.errors import MdlError
from mdl.formatting import human_size

WIDTH, HEIGHT = 1200, 860
# The tiles; the title is above them, the legend below.
TILES_BOX = (0.0, 44.0, 1200.0, 776.0)
# The largest repositories of a large cache; the others are one tile.
_MOST_TILES = 120
_COLOURS = {
    "model": "#4c78a8",
    "dataset": "#b45f06",
    "space": "#3b7d34",
    "kernel": "#8a5a83",
    "broken": "#b0353b",
    "other": "#6f6f6f",
}
_CHARACTER, _LINE = 7.2, 16.0


class Cell(NamedTuple):
    """What one rectangle shows: its label, its size in bytes and the name of its colour."""

    label: str
    size: int
    colour: str


class Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float


class Shape(NamedTuple):
    """A rectangle, with a `tooltip`; or, without a width, a text that begins there."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    text: str = ""
    tooltip: str = ""


def to_cells(repos: Sequence[CachedRepo], totals: Totals) -> list[Cell]:
    """The largest repositories, the others as one, and the rest of the cache; largest first."""
    repos = sorted(repos, key=lambda repo: -repo.size_on_disk)
    cells = [
        Cell(repo.repo_id, repo.size_on_disk, "broken" if repo.problems else repo.repo_type)
        for repo in repos[:_MOST_TILES]
    ]
    others = repos[_MOST_TILES:]
    cells += [
        Cell(f"{len(others)} others", sum(repo.size_on_disk for repo in others), "other"),
        Cell("xet/", totals.xet_size, "other"),
        Cell("trash", totals.trash_size, "other"),
    ]
    return sorted((cell for cell in cells if cell.size > 0), key=lambda cell: -cell.size)


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """Boxes with areas proportional to `sizes` (largest first), as square as possible."""
    total = sum(sizes)
    if total <= 0:
        return []
    scale = box.width * box.height / total
    areas = [size * scale for size in sizes]
    boxes: list[Box] = []
    start = 0
    while start < len(areas):
        side = min(box.width, box.height)
        end = start + 1
        while end < len(areas) and _worst(areas[start : end + 1], side) <= _worst(
            areas[start:end], side
        ):
            end += 1
        row, box = _lay(areas[start:end], box)
        boxes += row
        start = end
    return boxes


def _worst(row: Sequence[float], side: float) -> float:
    """The largest aspect ratio in a row of areas along a side."""
    total = sum(row)
    if total <= 0 or side <= 0:
        return float("inf")
    return max(side * side * max(row) / total**2, total**2 / (side * side * min(row)))


def _lay(row: Sequence[float], box: Box) -> tuple[list[Box], Box]:
    """Lay a row along the shorter side of a box; return its boxes and the rest of the box."""
    along, across = (box.height, box.width) if box.width >= box.height else (box.width, box.height)
    # Divisions round; keep what is laid out inside the box.
    depth = min(sum(row) / along, across) if along > 0 else 0.0
    boxes = []
    start = 0.0
    for area in row:
        length = min(area / depth if depth > 0 else 0.0, max(0.0, along - start))
        if box.width >= box.height:
            boxes.append(Box(box.x, box.y + start, depth, length))
        else:
            boxes.append(Box(box.x + start, box.y, length, depth))
        start += length
    if box.width >= box.height:
        return boxes, Box(box.x + depth, box.y, box.width - depth, box.height)
    return boxes, Box(box.x, box.y + depth, box.width, box.height - depth)


def compose(cells: Sequence[Cell], title: str) -> list[Shape]:
    """The picture: a title, a tile a cell, and a legend with the bytes of each colour."""
    shapes = [Shape(4, 28, 0, 0, "#222222", title)]
    boxes = squarify([cell.size for cell in cells], Box(*TILES_BOX))
    for cell, box in zip(cells, boxes, strict=True):
        name, size = _readable(cell.label), human_size(cell.size)
        shapes.append(Shape(*box, _COLOURS[cell.colour], tooltip=f"{name}: {size}"))
        # Whole names or none: the tooltip has the others.
        if box.height >= 2 * _LINE + 6 and _fits(name, box) and _fits(size, box):
            shapes.append(Shape(box.x + 5, box.y + _LINE, 0, 0, "#ffffff", name))
            shapes.append(Shape(box.x + 5, box.y + 2 * _LINE, 0, 0, "#ffffff", size))
    x, y = 4.0, TILES_BOX[1] + TILES_BOX[3] + 12
    for colour, fill in _COLOURS.items():
        total = sum(cell.size for cell in cells if cell.colour == colour)
        if total:
            text = f"{colour} {human_size(total)}"
            shapes.append(Shape(x, y, 14, 14, fill))
            shapes.append(Shape(x + 20, y + 12, 0, 0, "#222222", text))
            x += 44 + len(text) * _CHARACTER
    return shapes


def _fits(text: str, box: Box) -> bool:
    return len(text) * _CHARACTER <= box.width - 10


def draw_svg(shapes: Sequence[Shape]) -> str:
    """The picture as an SVG document."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for shape in shapes:
        place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" fill="{shape.colour}"'
        if shape.text:
            lines.append(f"<text {place}>{escape(_readable(shape.text))}</text>")
            continue
        size = f'width="{shape.width:.1f}" height="{shape.height:.1f}"'
        tooltip = f"<title>{escape(shape.tooltip)}</title>" if shape.tooltip else ""
        lines.append(f'<rect {place} {size} stroke="#ffffff">{tooltip}</rect>')
    lines.append("</svg>\n")
    return "\n".join(lines)


def draw_png(shapes: Sequence[Shape], path: Path) -> None:
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
    image = Image.new("RGB", (WIDTH, HEIGHT), "#ffffff")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for shape in shapes:
        if shape.text:
            text = _readable(shape.text)
            pen.text((shape.x, shape.y), text, fill=shape.colour, font=font, anchor="ls")
        else:
            corner = (shape.x + shape.width, shape.y + shape.height)
            pen.rectangle((shape.x, shape.y, *corner), fill=shape.colour, outline="#ffffff")
    image.save(path, "PNG")


def _readable(text: str) -> str:
    """Replace control characters and lone surrogates, which XML does not allow."""
    return "".join(character if character.isprintable() else "?" for character in text)
