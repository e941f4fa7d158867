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

WIDTH, HEIGHT = 1200, 800
_COLOURS = {
    "model": "#4c78a8",
    "dataset": "#f58518",
    "space": "#54a24b",
    "kernel": "#b279a2",
    "broken": "#c44e52",
    "other": "#9d9d9d",
}
_SMALLEST_LABEL = (60.0, 16.0)
_CHARACTER = 7.0


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


def to_cells(repos: Sequence[CachedRepo], totals: Totals) -> list[Cell]:
    """The repositories and the rest of the cache, largest first."""
    cells = [
        Cell(repo.repo_id, repo.size_on_disk, "broken" if repo.problems else repo.repo_type)
        for repo in repos
    ]
    cells += [Cell("xet/", totals.xet_size, "other"), Cell("trash", totals.trash_size, "other")]
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


def draw_svg(cells: Sequence[Cell]) -> str:
    """The treemap as an SVG document; tooltips name each rectangle and its size."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    boxes = squarify([cell.size for cell in cells], Box(0, 0, WIDTH, HEIGHT))
    for cell, box in zip(cells, boxes, strict=True):
        title = f"{escape(_readable(cell.label))}: {human_size(cell.size)}"
        lines.append(
            f'<g><title>{title}</title><rect x="{box.x:.1f}" y="{box.y:.1f}"'
            f' width="{box.width:.1f}" height="{box.height:.1f}" fill="{_COLOURS[cell.colour]}"'
            ' stroke="#ffffff"/>'
        )
        label = _label(cell, box)
        if label:
            lines.append(
                f'<text x="{box.x + 4:.1f}" y="{box.y + 14:.1f}" fill="#ffffff">'
                f"{escape(label)}</text>"
            )
        lines.append("</g>")
    lines.append("</svg>\n")
    return "\n".join(lines)


def draw_png(cells: Sequence[Cell], path: Path) -> None:
    """The same picture as pixels.

    Raises:
        MdlError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ModuleNotFoundError as error:
        raise MdlError(
            "Drawing a PNG needs Pillow, which is not installed.",
            next="Name a file that ends in .svg, or run: pip install pillow",
        ) from error
    image = Image.new("RGB", (WIDTH, HEIGHT), "#ffffff")
    pen = ImageDraw.Draw(image)
    boxes = squarify([cell.size for cell in cells], Box(0, 0, WIDTH, HEIGHT))
    for cell, box in zip(cells, boxes, strict=True):
        corner = (box.x + box.width, box.y + box.height)
        pen.rectangle((box.x, box.y, *corner), fill=_COLOURS[cell.colour], outline="#ffffff")
        label = _label(cell, box).encode("ascii", "replace").decode()
        if label:
            pen.text((box.x + 4, box.y + 3), label, fill="#ffffff")
    image.save(path, "PNG")


def _label(cell: Cell, box: Box) -> str:
    if box.width < _SMALLEST_LABEL[0] or box.height < _SMALLEST_LABEL[1]:
        return ""
    text = f"{_readable(cell.label)} {human_size(cell.size)}"
    fits = int((box.width - 8) / _CHARACTER)
    return text if len(text) <= fits else f"{text[: max(0, fits - 1)]}…"


def _readable(text: str) -> str:
    """Replace control characters and lone surrogates, which XML does not allow."""
    return "".join(character if character.isprintable() else "?" for character in text)
