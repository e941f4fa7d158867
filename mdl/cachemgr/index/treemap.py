"""The layout of a treemap, squarified as Bruls, Huizing and van Wijk (2000) do."""

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float


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
