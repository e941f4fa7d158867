"""The page: whole without JavaScript, safe with hostile names, sane for a screen reader."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from urllib.parse import quote

from starlette.testclient import TestClient

from mdl.settings import load_settings
from mdl.store import open_catalog
from tests.hub import LoopbackHub
from tests.service.conftest import Start, cached_repo

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


def fill(client: TestClient, *names: str) -> Page:
    for n, name in enumerate(names):
        cached_repo(client.service.cache.root, name, {"model.bin": b"x" * 1000 * (9 - n)})  # type: ignore[attr-defined]
    client.service.cache.forget()  # type: ignore[attr-defined]
    return Page(client.get("/").text)


def tiles(page: Page) -> list[dict[str, str | None]]:
    return [each for each in page.all("a") if (each.get("class") or "").startswith("tile")]


def addresses(page: Page, text: str) -> dict[str, str]:
    """Label → address of the tiles that are links, without its place on the page."""
    wide = Page(text[text.index("<svg") : text.index("</svg>") + 6])
    found = {str(each["aria-label"]).split(",")[0]: str(each["href"]) for each in tiles(wide)}
    return {label: address.partition("#")[0] for label, address in found.items()}


def test_the_treemap_leads_from_owners_to_repositories_to_revisions_and_files(
    hub: LoopbackHub, start: Start
) -> None:
    client = start()
    page = fill(client, "Org/Big", "Org/small", 'Odd/a"b<c')
    text = client.get("/").text
    top = addresses(page, text)
    assert set(top) == {"Org", "Big", "small", 'Odd/a"b<c'}
    # The Tab key reaches the outermost; they lead to the others.
    assert {each.get("tabindex") for each in tiles(Page(text))} == {None, "-1"}
    owner = client.get(top["Org"]).text
    assert set(addresses(Page(owner), owner)) == {"Big", "small"}
    repo = client.get(top["Big"]).text
    (revision,) = addresses(Page(repo), repo).items()
    assert revision[0] == "aaaaaaa main"
    files = client.get(revision[1]).text
    assert not addresses(Page(files), files)
    for text in (repo, files):
        assert ">model.bin</text>" in text
        assert '<tr><th scope="row">model.bin</th>' in text


def test_a_place_that_is_not_there_shows_nothing(hub: LoopbackHub, start: Start) -> None:
    client = start()
    fill(client, "Org/Name")
    for at in ("model|Org|Org/Gone", "model|Org|Org/Name|nothing", "a|b|c|d|e|f", "|||"):
        answer = client.get("/", params={"at": at})
        assert answer.status_code == 200
        Page(answer.text)
        assert "model.bin" not in answer.text


def test_the_table_sorts_and_filters_without_javascript(hub: LoopbackHub, start: Start) -> None:
    client = start()
    fill(client, "Org/Beta", "Org/alpha", "Other/Gamma")

    def names(query: str) -> list[str]:
        text = client.get(f"/?{query}").text
        return re.findall(r'<tr><th scope="row">([^<]+)</th>', text)

    assert names("sort=size") == ["Org/Beta", "Org/alpha", "Other/Gamma"]
    assert names("sort=name") == ["Org/alpha", "Org/Beta", "Other/Gamma"]
    assert names("filter=GAM") == ["Other/Gamma"]
    assert client.get("/?sort=nonsense").status_code == 400


def test_names_are_completed_from_the_cache_and_the_catalogue(
    hub: LoopbackHub, start: Start
) -> None:
    client = start()
    fill(client, "Org/My-Llama-3.2-Tune")
    found = client.get("/v1/names?q=llama-3.2").json()["names"]
    assert found == [{"name": "Org/My-Llama-3.2-Tune", "cached": True}]
    found = client.get("/v1/names?q=unsloth/Llama-3.2-1B-I").json()["names"]
    assert {"name": "unsloth/Llama-3.2-1B-Instruct", "cached": False} in found
    assert hub.count() == 0


def test_the_result_has_commands_and_the_family(hub: LoopbackHub, start: Start) -> None:
    hub.add_repo("unsloth/Llama-3.2-1B-Instruct", files={"config.json": "{}"})
    text = start().get("/?name=unsloth/Llama-3.2-1B-Instruct&format=bnb-4bit").text
    Page(text)
    assert "mdl pull unsloth/Llama-3.2-1B-Instruct --format bnb-4bit" in text
    assert 'class="tree"' in text


def test_formats_are_side_by_side_with_size_memory_and_access(
    hub: LoopbackHub, start: Start
) -> None:
    client = start()
    name = "unsloth/Llama-3.2-1B-Instruct"
    config = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
              "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": b"x" * 5000}
    cached_repo(client.service.cache.root, name, files)  # type: ignore[attr-defined]
    client.service.cache.forget()  # type: ignore[attr-defined]
    hub.add_repo(name, files=dict(files))
    text = client.get(f"/?name={name}&format=bnb-4bit").text
    Page(text)
    table = text[text.index("<h3>Its formats</h3>") : text.index("<h3>Its family</h3>")]
    rows = {row.partition("<")[0]: row for row in re.split(r'<tr><th scope="row"><[^>]+>', table)}
    assert "a KV cache of 8,192 tokens" in table
    # 256 MiB + 16 × 8192 tokens × 8 heads × 64 × 2 × 2 bytes of keys and values, 5 KB of weights.
    assert rows["16bit"].count("5.1 KB") == 1 and "805.3 MB" in rows["16bit"], rows["16bit"]
    assert '<td data-label="Here">5.1 KB</td>' in rows["16bit"]
    assert "not gated" in rows["16bit"]
    assert "about " in rows["bnb-4bit"]
    assert '<strong aria-current="true">bnb-4bit' in table
    assert f"/?name={quote(name, safe='')}&amp;format=16bit" in table


def test_what_could_be_freed_is_shown_by_reason(hub: LoopbackHub, start: Start) -> None:
    client = start()
    fill(client, "Org/Twice", "org/TWICE")
    text = client.get("/").text
    assert "The same files in several casings" in text
    assert "free on its disk" in text


def test_every_field_has_a_label_and_nothing_comes_from_elsewhere(
    hub: LoopbackHub, start: Start
) -> None:
    client = start()
    answer = client.get("/")
    page = Page(answer.text)
    labelled = {label["for"] for label in page.all("label")}
    fields = [each for each in page.all("input") if each.get("type") != "hidden"]
    fields += page.all("select")
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


def test_the_svg_is_well_formed(hub: LoopbackHub, start: Start) -> None:
    client = start()
    cached_repo(client.service.cache.root, "Org/Name", {"model.bin": b"x" * 4000})
    client.service.cache.forget()
    text = client.get("/").text
    svg = text[text.index("<svg") : text.index("</svg>") + 6]
    assert ET.fromstring(svg).tag == "svg"
