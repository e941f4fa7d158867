"""The page: whole without JavaScript, safe with hostile names, sane for a screen reader."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mdl.cachemgr.index.treemap import Box, squarify
from mdl.settings import load_settings
from mdl.store import open_catalog
from tests.hub import LoopbackHub
from tests.service.browser import Browser
from tests.service.conftest import Process, Start, cached_repo

_VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """Elements with their attributes; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def test_the_answer_and_its_trace_are_in_the_html(hub: LoopbackHub, start: Start) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    text = start().get("/?name=org/open").text
    Page(text)
    assert "<strong>Org/Open</strong>" in text
    assert 'class="accepted"' in text


def test_what_runs_opened_is_on_the_page(start: Start) -> None:
    client = start()
    assert "What did runs open?" not in client.get("/").text
    opened = {"repo_id": "Org/<b>", "commit": "1" * 40, "substituted": False, "rule": "opened",
              "source": "run", "source_version": None}  # fmt: skip
    catalog = open_catalog(load_settings())
    catalog.log("run", "Org/<b>", "bnb-4bit", opened)
    catalog.log("service", "Org/asked", "16bit", {**opened, "repo_id": "Org/asked"})
    catalog.database.close()
    text = client.get("/").text
    Page(text)
    assert "Org/&lt;b&gt;</th><td>111111111111</td><td>bnb-4bit</td>" in text
    assert "Org/asked" not in text


def test_a_hostile_name_stays_text(hub: LoopbackHub, start: Start) -> None:
    text = start().get("/", params={"name": '"><script>alert(1)</script>'}).text
    assert "<script>alert" not in text
    assert len(Page(text).all("script")) == 1


def test_a_refusal_is_announced(hub: LoopbackHub, start: Start) -> None:
    page = Page(start().get("/?name=../etc&format=16bit").text)
    assert any(div.get("role") == "alert" for div in page.all("div"))


def test_every_tile_has_a_row_a_name_and_a_way_for_the_keyboard(
    hub: LoopbackHub, start: Start
) -> None:
    client = start()
    root = client.service.cache.root
    for n, name in enumerate(("Org/Big", "Org/small", "org/SMALL", 'Odd/a"b<c')):
        cached_repo(root, name, {"model.bin": b"x" * 1000 * (5 - n)})
    client.service.cache.forget()
    page = Page(client.get("/").text)
    tiles = [a for a in page.all("a") if (a.get("class") or "").startswith("tile")]
    rows = {row["id"] for row in page.all("tr") if "id" in row}
    assert len(tiles) == 3
    assert {(tile["href"] or "")[1:] for tile in tiles} == rows
    assert all(tile["aria-label"] for tile in tiles)
    assert "twice" in (next(t for t in tiles if "mall" in str(t["aria-label"]))["class"] or "")


def test_every_field_has_a_label_and_nothing_comes_from_elsewhere(
    hub: LoopbackHub, start: Start
) -> None:
    client = start()
    answer = client.get("/")
    page = Page(answer.text)
    labelled = {label["for"] for label in page.all("label")}
    fields = page.all("input") + page.all("select")
    assert {field["id"] for field in fields} == labelled
    addresses = [e.get("href") or e.get("src") or "" for _, e in page.elements]
    assert not [a for a in addresses if a.startswith(("http:", "https:", "//"))]
    assert not re.search(r"\son\w+=|style=", answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for asset in ("style.css", "page.js"):
        assert client.get(f"/page/{asset}").status_code == 200
    assert client.get("/page/..%2fapp.py").status_code == 404
    assert page.all("html")[0]["lang"] == "en"


def test_a_prune_preview_shows_what_would_go_and_changes_nothing(
    hub: LoopbackHub, start: Start
) -> None:
    client = start()
    folder = cached_repo(client.service.cache.root, "Org/Name", {"model.bin": b"x" * 4000})
    text = client.get("/?max_size=1K").text
    Page(text)
    assert "over the size budget" in text
    assert folder.exists()


def test_the_treemap_fills_its_box_in_proportion() -> None:
    sizes = [6.0, 6.0, 4.0, 3.0, 2.0, 2.0, 1.0]
    boxes = squarify(sizes, Box(0, 0, 600, 400))
    areas = [box.width * box.height for box in boxes]
    assert areas == pytest.approx([size * 10000 for size in sizes])


@pytest.mark.system("chromium", "chromedriver")
def test_in_a_browser_the_page_changes_when_the_cache_does(
    hub: LoopbackHub, serve: Callable[..., Process], tmp_path: Path
) -> None:
    service = serve()
    root = tmp_path / "hf" / "hub"
    cached_repo(root, "Org/First", {"model.bin": b"x" * 9000})
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{service.url}/?name=Org/Nothing")
        assert browser.run("return document.querySelector('[role=alert]').innerText")
        assert "Org/First" in browser.run("return document.getElementById('cache').innerText")
        cached_repo(root, "Org/Second", {"model.bin": b"x" * 7000})
        browser.wait_for("return document.getElementById('cache').innerText.includes('Second')")
        assert "changed" in browser.run("return document.getElementById('live').innerText")
        # Every colour of a tile carries white text of 13 px: contrast at least 4.5 to 1.
        ratios = browser.run(CONTRAST)
        assert min(ratios) >= 4.5
        assert not browser.run("return document.body.scrollWidth > window.innerWidth")


CONTRAST = """
const shine = (rgb) => rgb.map((c) => c / 255)
  .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
return [...document.querySelectorAll(".legend rect")].map((rect) => {
  const rgb = getComputedStyle(rect).fill.match(/[0-9]+/g).slice(0, 3).map(Number);
  return 1.05 / (shine(rgb) + 0.05);
});
"""


def test_the_svg_is_well_formed(hub: LoopbackHub, start: Start) -> None:
    client = start()
    cached_repo(client.service.cache.root, "Org/Name", {"model.bin": b"x" * 4000})
    client.service.cache.forget()
    text = client.get("/").text
    svg = text[text.index("<svg") : text.index('<ul class="legend">')]
    assert ET.fromstring(svg).tag == "svg"
