"""The page in a real Chromium: live, by keyboard alone, and as pictures to look at."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub import LoopbackHub
from tests.service.browser import Browser
from tests.service.conftest import ADMIN, Process, cached_repo

# Kept after the tests: somebody has to look at these.
PICTURES = Path(__file__).parents[2] / "build" / "page"
NAME = "unsloth/Llama-3.2-1B-Instruct"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as opened:
        yield opened


@pytest.fixture
def admin(hub: LoopbackHub, serve: Callable[..., Process], tmp_path: Path) -> Callable[[str], str]:
    """The address of a path of a service, with the operator's token as its password."""
    hub.add_repo(NAME, files={"config.json": "{}"})
    for name, size in ((NAME, 9000), ("Org/First", 7000), ("Org/Second", 5000), ("Other/One", 800)):
        files = {"model.safetensors": b"x" * size, "config.json": b"{}"}
        cached_repo(tmp_path / "hf" / "hub", name, files)
    port = serve("--hub", MDL_SERVE_TOKENS=f"admin {ADMIN}").port
    return lambda path: f"http://me:{ADMIN}@127.0.0.1:{port}{path}"


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
        assert not browser.run("return document.body.scrollWidth > window.innerWidth")


@pytest.mark.system("chromium", "chromedriver")
def test_the_keyboard_alone_goes_through_search_drill_down_removal_and_undo(
    admin: Callable[[str], str], browser: Browser, tmp_path: Path
) -> None:
    browser.open(admin("/"))
    browser.press("Tab")
    assert browser.run("return document.activeElement.textContent") == "Skip to the result"

    # A name is completed and resolved.
    browser.tab_to("e => e.id === 'name'")
    browser.press("unsloth/llama-3.2-1b-ins")
    names = "[...document.querySelectorAll('#names option')].map(e => e.value)"
    browser.wait_for(f"return {names}.includes('{NAME}')")
    browser.press("truct", "Enter")
    browser.wait_for("return document.querySelector('.result strong')")
    assert browser.run("return document.querySelector('.result strong').textContent") == NAME

    # From owners to a repository to its revision and files, each with the focus on what is new.
    for label in ("Org", "First", "aaaaaaa main"):
        browser.run("window.drilled = true")
        browser.tab_to(f"e => e.matches('a.tile') && e.ariaLabel.startsWith('{label}')")
        browser.press("Enter")
        last = f"document.querySelector('ol.path').innerText.endsWith('{label.split()[0]}')"
        found = last if label != "aaaaaaa main" else "location.search.includes('aaaaaaa')"
        browser.wait_for(f"return {found} && document.activeElement.id === 'cached'")
        assert browser.run("return window.drilled"), "in place"
    assert "config.json" in browser.run("return document.querySelector('#cache table').innerText")
    browser.tab_to("e => e.matches('ol.path a') && e.textContent === 'Everything'")
    browser.press("Enter")
    browser.wait_for("return document.querySelector('ol.path').innerText === 'Everything'")

    # Two are selected; the plan is shown; they go to the trash, and come back.
    for name in ("Org/First", "Org/Second"):
        browser.tab_to(f"e => e.value === 'model/{name}'")
        browser.press("Space")
    browser.tab_to("e => e.textContent === 'Remove the selected…'")
    browser.press("Enter")
    browser.wait_for("return document.querySelector('#change form')")
    assert "the whole repository" in browser.run(
        "return document.querySelector('#change').innerText"
    )
    first = tmp_path / "hf" / "hub" / "models--Org--First"
    assert first.exists()
    browser.tab_to("e => e.textContent === 'Move 12.0 KB to the trash'", most=120)
    browser.press("Enter")
    browser.wait_for(
        "return document.querySelector('#change').innerText.includes('The last change: rm')"
    )
    assert not first.exists()
    browser.tab_to("e => e.textContent === 'Undo it'", most=120)
    browser.press("Enter")
    browser.wait_for("return document.querySelector('#cache').innerText.includes('Org/First')")
    assert first.exists()


@pytest.mark.system("chromium", "chromedriver")
def test_pictures_at_three_widths_in_both_schemes(
    admin: Callable[[str], str], browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    pages = {
        "answer": f"/?name={NAME}&format=bnb-4bit",
        "files": "/?at=model%7COrg%7COrg%2FFirst",
        "removal": "/?remove=model/Org/First#change",
    }
    for page, path in pages.items():
        browser.open(admin(path))
        for width in (390, 768, 1440):
            for dark in (False, True):
                name = f"{page}-{width}-{'dark' if dark else 'light'}.png"
                browser.picture(PICTURES / name, width, dark=dark)
                wide = browser.run("return document.documentElement.scrollWidth")
                assert wide <= width, name
                assert browser.run(TOO_PALE) == [], name
                assert browser.run(CUT_OFF) == [], name
    with capsys.disabled():
        print(f"\nPictures of the page: {os.path.relpath(PICTURES)}")


# Texts with a contrast below AA (4.5 to 1) against the colour behind them.
TOO_PALE = """
const parse = (text) => text.match(/[0-9.]+/g).map(Number);
const shine = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const pale = [];
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || e.closest("svg") || !e.offsetParent) continue;
  const [a, b] = [shine(parse(getComputedStyle(e).color)), shine(behind(e))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) pale.push(`${e.textContent.trim().slice(0, 40)}: ${contrast.toFixed(1)}`);
}
return pale;
"""

# Names in the treemap that leave their tile.
CUT_OFF = """
const all = [...document.querySelectorAll("svg.treemap")];
const drawn = all.find((svg) => svg.getClientRects().length);
return [...drawn.querySelectorAll(".tile")].flatMap((tile) => {
  const box = tile.querySelector("rect").getBoundingClientRect();
  return [...tile.querySelectorAll("text")].filter((text) => {
    const at = text.getBoundingClientRect();
    return at.right > box.right + 1 || at.bottom > box.bottom + 1;
  }).map((text) => text.textContent);
});
"""
