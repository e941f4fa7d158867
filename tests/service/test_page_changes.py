"""Removing and undoing on the page: for admins alone, the plan first, and no other site's form."""

import base64
import html
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.hub import LoopbackHub
from tests.service.conftest import ADMIN, READ, Start, bearer, cached_repo
from tests.service.test_page import Page

MINE = bearer(ADMIN)
HOME = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def client(hub: LoopbackHub, start: Start) -> TestClient:
    made = start(tokens=f"admin {ADMIN};read {READ}")
    for name in ("Org/Old", "org/OLD", "Org/Kept"):
        cached_repo(root_of(made), name, {"model.bin": b"x" * 5000, "config.json": b"{}"})
    made.service.cache.forget()  # type: ignore[attr-defined]
    return made


def root_of(client: TestClient) -> Path:
    root: Path = client.service.cache.root  # type: ignore[attr-defined]
    return root


def boxes(text: str) -> list[str]:
    found = [field for field in Page(text).all("input") if field.get("type") == "checkbox"]
    return [str(field["value"]) for field in found if field["name"] == "remove"]


def form(text: str) -> dict[str, str]:
    """The fields of the first form that changes something."""
    found = re.search(r'<form action="/page/act" method="post">(.*?)</form>', text)
    assert found is not None, text
    fields = re.findall(r'name="(\w+)" value="([^"]*)"', found[1])
    return {name: html.unescape(value) for name, value in fields}


def send(client: TestClient, fields: dict[str, str], **headers: str) -> Any:
    return client.post(
        "/page/act", data=fields, headers={**MINE, **HOME, **headers}, follow_redirects=False
    )


def test_what_is_selected_is_shown_as_a_plan_then_removed_then_undone(client: TestClient) -> None:
    text = client.get("/", headers=MINE).text
    assert boxes(text) == ["model/Org/Old", "model/Org/Kept"]
    text = client.get("/", params={"remove": "model/Org/Old"}, headers=MINE).text
    Page(text)
    # Both casings, which the page shows as one.
    assert "models--Org--Old" in text and "models--org--OLD" in text
    assert "Move 10.0 KB to the trash</button>" in text
    assert (root_of(client) / "models--Org--Old").exists()

    done = send(client, form(text))
    assert (done.status_code, done.headers["location"]) == (303, "/#change")
    assert not (root_of(client) / "models--Org--Old").exists()
    text = client.get("/", headers=MINE).text
    assert boxes(text) == ["model/Org/Kept"]
    assert "The last change: rm: " in text

    assert send(client, form(text)).status_code == 303
    assert (root_of(client) / "models--Org--Old").exists()
    assert (root_of(client) / "models--org--OLD").exists()


def test_a_revision_and_a_file_can_be_selected(client: TestClient) -> None:
    text = client.get("/", params={"at": "model|Org|Org/Kept"}, headers=MINE).text
    name = f"model/Org/Kept@{'a' * 40}"
    assert boxes(text) == [name, f"{name}:config.json", f"{name}:model.bin"]
    text = client.get("/", params={"remove": f"{name}:config.json"}, headers=MINE).text
    assert send(client, form(text)).status_code == 303
    left = root_of(client) / "models--Org--Kept" / "snapshots" / ("a" * 40)
    assert [path.name for path in left.iterdir()] == ["model.bin"]


def test_a_prune_that_was_looked_at_is_carried_out(client: TestClient) -> None:
    text = client.get("/", params={"max_size": "1K"}, headers=MINE).text
    plan = text[text.index('aria-label="What would be removed"') :]
    assert send(client, form(plan)).status_code == 303
    assert list(root_of(client).glob("models--*")) == []


def test_a_plan_that_has_changed_is_refused_and_the_page_says_so(client: TestClient) -> None:
    text = client.get("/", params={"remove": "model/Org/Kept"}, headers=MINE).text
    cached_repo(root_of(client), "Org/Kept", {"more.bin": b"y" * 9000}, commit="b" * 40)
    refused = send(client, form(text))
    assert refused.status_code == 409
    assert "The plan has changed since it was made." in refused.text
    Page(refused.text)
    assert (root_of(client) / "models--Org--Kept").exists()


def test_only_an_admin_can_select_and_change(client: TestClient, start: Start) -> None:
    fields = form(client.get("/", params={"remove": "model/Org/Old"}, headers=MINE).text)
    text = client.get("/", params={"remove": "model/Org/Old"}, headers=bearer(READ)).text
    assert boxes(text) == [] and 'id="change"' not in text
    for headers in (bearer(READ), {}):
        answer = client.post("/page/act", data=fields, headers={**HOME, **headers})
        assert answer.status_code == (403 if headers else 401)
    # Without tokens nobody is an admin: the page reads.
    alone = start()
    text = alone.get("/", params={"remove": "model/Org/Old"}).text
    assert boxes(text) == [] and 'id="change"' not in text
    assert alone.post("/page/act", data=fields, headers=HOME).status_code == 403
    assert (root_of(client) / "models--Org--Old").exists()


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, None),
        ({"Sec-Fetch-Site": "same-site"}, None),
        ({"Origin": "http://elsewhere.example"}, None),
        ({"Origin": "null"}, None),
        ({"Content-Type": "text/plain"}, None),
        ({}, "0" * 64),
        ({}, ""),
        ({}, "\udcff"),
    ],
)
def test_no_other_page_can_send_the_form(
    client: TestClient, headers: dict[str, str], key: str | None
) -> None:
    fields = form(client.get("/", params={"remove": "model/Org/Old"}, headers=MINE).text)
    if key is not None:
        fields["key"] = key.encode("utf-8", "surrogateescape").decode("latin-1")
    assert send(client, fields, **headers).status_code in (403, 415)
    assert (root_of(client) / "models--Org--Old").exists()


def test_a_key_is_the_callers_own(client: TestClient) -> None:
    service = client.service  # type: ignore[attr-defined]
    keys = {service.tokens.page_key(value) for value in (None, f"Bearer {ADMIN}", f"Bearer {READ}")}
    assert len(keys) == 3
    basic = "Basic " + base64.b64encode(f"me:{ADMIN}".encode()).decode()
    assert service.tokens.page_key(basic) == service.tokens.page_key(f"Bearer {ADMIN}")


@pytest.mark.parametrize("plan", ["", "{}", '{"kind": "rm"}', "[]", "\x00", '{"kind": "format-c"}'])
def test_what_is_no_plan_is_refused(client: TestClient, plan: str) -> None:
    key = client.service.tokens.page_key(MINE["Authorization"])  # type: ignore[attr-defined]
    refused = send(client, {"plan": plan, "digest": "0" * 16, "key": key})
    assert refused.status_code == 400
    Page(refused.text)


def test_what_cannot_be_removed_is_explained(client: TestClient) -> None:
    for target in ("model/Org/Gone", "", "::", "model/Org/Old@nothing"):
        text = client.get("/", params={"remove": target}, headers=MINE).text
        Page(text)
        assert '<div class="refused" role="alert">' in text
