"""The treemap: areas are sizes, nothing overlaps, and odd names stay harmless."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mdl.cachemgr import CachedRepo, Totals
from mdl.cachemgr.index import COLOURS, Box, Tile, compose, draw_png, draw_svg, file_tiles, poster
from mdl.cachemgr.index.tiles import MOST_TILES, repo_tiles
from mdl.cachemgr.index.treemap import squarify

WIDTH, HEIGHT = 1200, 860
NOW = 1_000_000_000.0
DAY = 86400.0


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
    assert ElementTree.fromstring(draw_svg(poster([], "", "age"))).tag.endswith("svg")


def test_names_cannot_break_the_document() -> None:
    tiles = [
        Tile('<script>"&', 100, "model"),
        Tile("two\nlines\x1b[31m", 90, "dataset"),
        Tile("\udcff not utf-8", 80, "space"),
    ]
    document = ElementTree.fromstring(draw_svg(poster(tiles, "<&>", "type", NOW)).encode())
    titles = [element.text for element in document.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ['<script>"&, 100 B', "two?lines?[31m, 90 B", "? not utf-8, 80 B"]


def test_types_owners_and_repositories_are_frames_with_labelled_leaves() -> None:
    repos = [repo("org/a-model", 500), repo("org/b", 300), repo("solo/c", 200), repo("org/d", 400,
             "dataset")]  # fmt: skip
    shapes = list(compose(repo_tiles(repos), Box(0, 0, 900, 440), "age", NOW))
    frames = [shape.lines[0] for shape in shapes if shape.is_frame]
    assert frames == ["models · 1.0 KB", "org · 800 B", "datasets · 400 B"]
    leaves = {shape.tile.label: shape for shape in shapes if not shape.is_frame}
    # An owner with one repository is that repository.
    assert set(leaves) == {"a-model", "b", "solo/c", "org/d"}
    assert leaves["b"].lines == ("b", "300 B")
    assert leaves["solo/c"].tile.at == ("model", "solo", "solo/c")
    for inner, outer in ((shapes[2], shapes[1]), (shapes[1], shapes[0])):
        assert inner.box.x > outer.box.x and inner.box.y > outer.box.y
        assert inner.box.x + inner.box.width < outer.box.x + outer.box.width


def test_a_name_is_whole_or_not_there() -> None:
    tiles = [Tile("org/Some-Very-Long-Model-Name-8B-Instruct", 10_000 // (n + 1), "model")
             for n in range(100)]  # fmt: skip
    labels = [shape.lines for shape in compose(tiles, Box(0, 0, 900, 440), "age", NOW)]
    assert () in labels
    broken = {"".join(lines).partition("Instruct")[0] for lines in labels if lines}
    assert broken == {"org/Some-Very-Long-Model-Name-8B-"}


@pytest.mark.parametrize("at", [(), ("model", "org")])
def test_the_smaller_ones_are_one_tile_and_no_byte_is_lost(at: tuple[str, ...]) -> None:
    owner = "org" if at else "{n}"  # of one owner, or of as many
    repos = [repo(f"{owner.format(n=n)}/{n}", 1000) for n in range(900)]
    repos += [repo(f"{owner.format(n=n)}/{n}", 1) for n in range(900, 2000)]
    shapes = list(compose(repo_tiles(repos, at), Box(0, 0, 900, 440), "age", NOW))
    assert len(shapes) == MOST_TILES + 1
    (rest,) = [shape for shape in shapes if shape.tile.label == "1,840 smaller ones"]
    assert rest.tile.at is None, "it would lead here"
    assert sum(shape.tile.size for shape in shapes) == 901_100
    assert rest.box.width * rest.box.height / (900 * 440) == pytest.approx(1 - 160 / 901.1)


def test_owners_of_many_small_repositories_are_tiles_that_lead_to_them() -> None:
    repos = [repo(f"org{n % 7}/{n}", 1000) for n in range(2000)]
    tiles = repo_tiles(repos)
    assert {tile.at for tile in tiles} == {("model", f"org{n}") for n in range(7)}
    assert sum(tile.size for tile in tiles) == 2_000_000
    assert not any(tile.inside for tile in tiles)


def test_trash_and_xet_are_tiles_of_the_whole_cache() -> None:
    totals = Totals(2, 2, 900, 900, 900, 0, 0, 0, 0, xet_size=30, trash_size=70, problems=0,
                    strangers=())  # fmt: skip
    labels = [tile.label for tile in repo_tiles([repo("a/b", 500), repo("a/c", 400)], (), totals)]
    assert labels == ["b", "c", "trash", "xet"]


def test_the_files_of_revisions_are_drawn_once() -> None:
    def revision(commit: str, modified: float, *blobs: str) -> dict[str, object]:
        files = [{"path": f"{blob}.bin", "size": 100, "blob": blob, "state": ""} for blob in blobs]
        return {"commit": commit * 40, "refs": ["main"], "last_modified": modified, "files": files,
                "last_used": None, "files_total": len(blobs)}  # fmt: skip

    revisions = [revision("a", 1.0, "x", "y"), revision("b", 2.0, "y", "z")]
    details = {"repo_type": "model", "last_used": NOW, "revisions": revisions}
    at = ("model", "org", "org/name")
    newer, older = file_tiles(details, at)
    assert (newer.label, newer.size, newer.at) == ("bbbbbbb main", 200, (*at, "b" * 40))
    assert [tile.label for tile in older.inside] == ["x.bin"]
    assert older.note == "1 file shared with a newer revision"
    # One revision's files are all its own.
    assert [t.label for t in file_tiles(details, (*at, "a" * 40))] == ["x.bin", "y.bin"]


def test_colours_say_age_or_type_and_the_legend_has_their_bytes() -> None:
    repos = [repo("a/new", 500, used=NOW - 60), repo("a/old", 300, used=NOW - 400 * DAY),
             repo("b/data", 200, "dataset")]  # fmt: skip
    for colour, keys in (
        ("age", {"used today 500 B", "longer ago 500 B"}),
        ("type", {"models 800 B", "datasets 200 B"}),
    ):
        drawn = draw_svg(poster(repo_tiles(repos), "title", colour, NOW))
        texts = {
            e.text for e in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")
        }
        assert keys | {"title", "2001-09-09"} <= texts


def test_white_text_can_be_read_on_every_colour() -> None:
    for colour in COLOURS.values():
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        shine = sum(c * w for c, w in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))
        assert 1.05 / (shine + 0.05) >= 4.5


def test_the_pixels_are_the_svgs_tiles(tmp_path: Path) -> None:
    picture = poster(repo_tiles([repo("a/b", 700), repo("a/c", 300)]), "title", "age", NOW)
    draw_png(picture, tmp_path / "cache.png", scale=1)
    with Image.open(tmp_path / "cache.png") as drawn:
        assert drawn.size == (WIDTH, HEIGHT)
        for shape in picture.shapes:
            middle = (shape.box.x + shape.box.width / 2, shape.box.y + shape.box.height / 2)
            colour = "#{:02x}{:02x}{:02x}".format(*drawn.getpixel(tuple(map(int, middle))))
            assert colour == COLOURS[shape.colour]


def repo(name: str, size: int, repo_type: str = "model", used: float | None = None) -> CachedRepo:
    return CachedRepo(name, repo_type, (name,), (), size, size, size, used, None, None, False, (),
                      0, 0, ())  # fmt: skip
