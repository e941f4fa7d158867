"""The treemap: areas are sizes, nothing overlaps, and odd names stay harmless."""

from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from mdl.cachemgr import CachedRepo, Totals
from mdl.cachemgr.index.treemap import (
    HEIGHT,
    WIDTH,
    Box,
    Cell,
    compose,
    draw_svg,
    squarify,
    to_cells,
)
from mdl.formatting import human_size


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_areas_are_in_proportion_and_inside(sizes: list[int]) -> None:
    sizes.sort(reverse=True)
    boxes = squarify(sizes, Box(0, 0, WIDTH, HEIGHT))
    scale = WIDTH * HEIGHT / sum(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        assert abs(box.width * box.height - size * scale) <= 1e-6 * WIDTH * HEIGHT
        assert box.x >= -1e-6
        assert box.y >= -1e-6
        assert box.x + box.width <= WIDTH + 1e-6
        assert box.y + box.height <= HEIGHT + 1e-6


def test_no_two_overlap() -> None:
    boxes = squarify([50, 30, 10, 5, 5], Box(0, 0, 100, 60))
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart = (
                one.x + one.width <= other.x + 1e-9
                or other.x + other.width <= one.x + 1e-9
                or one.y + one.height <= other.y + 1e-9
                or other.y + other.height <= one.y + 1e-9
            )
            assert apart


def test_equal_sizes_are_nearly_square() -> None:
    for box in squarify([1] * 12, Box(0, 0, 400, 300)):
        assert 0.5 <= box.width / box.height <= 2


def test_nothing_to_draw() -> None:
    assert squarify([], Box(0, 0, 1, 1)) == []
    assert ElementTree.fromstring(draw_svg(compose([], ""))).tag.endswith("svg")


def test_names_cannot_break_the_document() -> None:
    cells = [
        Cell('<script>"&', 100, "model"),
        Cell("two\nlines\x1b[31m", 90, "dataset"),
        Cell("\udcff not utf-8", 80, "broken"),
    ]
    document = ElementTree.fromstring(draw_svg(compose(cells, "<&>")).encode())
    titles = [element.text for element in document.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ['<script>"&: 100 B', "two?lines?[31m: 90 B", "? not utf-8: 80 B"]


def test_the_picture_has_every_byte_and_whole_names() -> None:
    repos = [repo(f"org/{'x' * (n % 60)}{n}", 1000 - n) for n in range(500)]
    cells = to_cells(repos, Totals(500, *[0] * 11, strangers=()))
    assert sum(cell.size for cell in cells) == sum(each.size_on_disk for each in repos)
    assert cells[0].label == "380 others"
    shapes = compose(cells, "title")
    names = {cell.label for cell in cells}
    sizes = {human_size(cell.size) for cell in cells}
    first, *texts = [shape.text for shape in shapes if shape.text]
    assert first == "title"
    legend = texts[-2:]
    assert {text.split()[0] for text in legend} == {"model", "other"}
    assert set(texts[:-2]) <= names | sizes
    rest = next(shape for shape in shapes if shape.tooltip.startswith("380 others"))
    assert rest.width * rest.height > 0


def repo(name: str, size: int) -> CachedRepo:
    return CachedRepo(name, "model", (name,), (), size, size, size, None, None, None, False, (),
                      0, 0, ())  # fmt: skip
