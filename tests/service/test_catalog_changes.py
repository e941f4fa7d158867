"""Writing the catalogue over HTTP: as `mdl catalog add`, `rm` and `import`, for admins."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mdl.store.rows import BadMirror, CatalogSource
from tests.hub import LoopbackHub
from tests.service.conftest import ADMIN, READ, Start, bearer

MINE = bearer(ADMIN)
ROW = {"name": "Org/Open", "mirror": "Us/Open-bnb-4bit"}


@pytest.fixture
def client(hub: LoopbackHub, start: Start) -> TestClient:
    for name in ROW.values():
        hub.add_repo(name, files={"config.json": "{}"})
    return start(tokens=f"admin {ADMIN};read {READ}")


def printed(home: Path, *arguments: str) -> dict[str, Any]:
    """What `mdl catalog … --json` says, in a home of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "mdl", "catalog", *arguments, "--json"],
        capture_output=True, text=True, env={**os.environ, "MDL_HOME": str(home)},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def answer(client: TestClient) -> str:
    found = client.get("/v1/resolve?name=org/open&format=bnb-4bit", headers=bearer(READ))
    assert found.status_code == 200, found.text
    return str(found.json()["repo_id"])


def test_what_is_added_answers_at_once_and_what_is_removed_no_longer(client: TestClient) -> None:
    assert answer(client) == "Org/Open"  # quantized on load: nothing better is known
    assert client.post("/v1/catalog", json=ROW, headers=MINE).status_code == 200
    assert answer(client) == "Us/Open-bnb-4bit"
    gone = client.delete("/v1/catalog/ORG/open", headers=MINE)
    assert (gone.status_code, gone.json()["removed"]) == (200, 1)
    assert answer(client) == "Org/Open"
    again = client.delete("/v1/catalog/Org/Open", headers=MINE)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")


def test_they_say_what_the_commands_print(client: TestClient, tmp_path: Path) -> None:
    added = client.post("/v1/catalog", json={**ROW, "rank": 3}, headers=MINE).json()
    assert added == printed(tmp_path, "add", *ROW.values(), "--rank", "3")
    removed = client.delete(
        "/v1/catalog/Org/Open", params={"mirror": "us/open-BNB-4bit"}, headers=MINE
    ).json()
    assert removed == printed(tmp_path, "rm", *ROW.values(), "--yes")


def test_a_dry_run_changes_nothing(client: TestClient) -> None:
    body = client.post("/v1/catalog", json={**ROW, "dry_run": True}, headers=MINE).json()
    assert (body["dry_run"], body["added"]["repo_id"]) == (True, ROW["mirror"])
    assert answer(client) == "Org/Open"
    client.post("/v1/catalog", json=ROW, headers=MINE)
    kept = client.delete("/v1/catalog/Org/Open?dry_run=true", headers=MINE).json()
    assert (len(kept["rows"]), kept["removed"]) == (1, 0)
    assert answer(client) == ROW["mirror"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mirror": "org/OPEN"}, "its own mirror"),
        ({"mirror": "../etc"}, ""),
        ({"format": "2bit"}, "format"),
        ({"weights": "gguf", "format": "bnb-4bit"}, "cannot be loaded"),
        ({"rank": 10**12}, "rank"),
        ({"repo_id": "a/b"}, "repo_id"),
    ],
)
def test_a_row_that_cannot_be_is_refused(
    client: TestClient, change: dict[str, Any], said: str
) -> None:
    refused = client.post("/v1/catalog", json={**ROW, **change}, headers=MINE)
    assert refused.status_code == 400
    assert said in refused.json()["error"]["message"]


def imported(client: TestClient, file: str, text: str, **query: str) -> tuple[int, dict[str, Any]]:
    kind = {"toml": "application/toml", "csv": "text/csv"}.get(file[-4:].lstrip("."))
    headers = {**MINE, "Content-Type": kind or "application/json"}
    done = client.post(
        "/v1/catalog/import", params={"file": file, **query}, content=text, headers=headers
    )
    return done.status_code, done.json()


@pytest.mark.parametrize("kind", ["toml", "json", "csv"])
def test_a_file_is_imported_as_the_command_does_it(
    client: TestClient, tmp_path: Path, kind: str
) -> None:
    mine = tmp_path / f"team.{kind}"
    printed(tmp_path / "a", "add", *ROW.values())
    printed(tmp_path / "a", "export", "--source", "user", "--output", str(mine))
    status, body = imported(client, mine.name, mine.read_text())
    assert (status, body["rows"]) == (200, 1)
    assert body == printed(tmp_path / "b", "import", str(mine))
    assert answer(client) == ROW["mirror"]  # at once, also where the name was just answered


def test_a_file_of_the_same_name_replaces_what_it_gave_before_and_no_other(
    client: TestClient,
) -> None:
    def rows(*mirrors: str) -> str:
        return json.dumps([{"name": ROW["name"], "repo_id": mirror} for mirror in mirrors])

    client.post("/v1/catalog", json=ROW, headers=MINE)
    imported(client, "team.json", rows("Us/A-bnb-4bit", "Us/B-bnb-4bit"))
    imported(client, "other.json", rows("Us/C-bnb-4bit"))
    assert imported(client, "team.json", rows("Us/D-bnb-4bit"))[0] == 200
    held = client.get("/v1/catalog/org/open", headers=MINE).json()["mirrors"]
    assert {row["repo_id"] for row in held} == {ROW["mirror"], "Us/C-bnb-4bit", "Us/D-bnb-4bit"}
    assert answer(client) == ROW["mirror"]  # a person's own row beats every file


@pytest.mark.parametrize(
    ("file", "text", "status", "said"),
    [
        ("t.json", '[{"name": "Org/Open", "repo_id": "Us/X-bnb-4bit"}, {"name": "a/b"}]', 400,
         "t.json, row 2: no repo_id"),
        ("t.json", "{", 400, "is not valid JSON"),
        ("t.toml", "mirrors = 5", 400, "is not a list of rows"),
        ("t.csv", "", 400, "has no rows"),
        ("t.json", "[" * 100_000, 400, "is not valid JSON"),
        ("t.yaml", "a: 1", 400, ".yaml is not a kind of catalogue file"),
        ("team", "{}", 400, "is not a kind of catalogue file"),
        ("../t.json", "[]", 400, "file is not valid"),
        ("", "[]", 400, "file is not valid"),
        ("t.json", " " * (1 << 20) + "[]", 413, "larger than"),
    ],
)  # fmt: skip
def test_of_a_file_with_anything_wrong_nothing_is_imported(
    client: TestClient, file: str, text: str, status: int, said: str
) -> None:
    before = client.get("/v1/catalog?source=file:t.json", headers=MINE).json()
    found, body = imported(client, file, text)
    assert (found, said in body["error"]["message"]) == (status, True), body
    assert body["error"]["next"]
    assert client.get("/v1/catalog?source=file:t.json", headers=MINE).json() == before


def test_a_dry_import_says_what_it_would_do(client: TestClient) -> None:
    text = json.dumps([{"name": ROW["name"], "repo_id": ROW["mirror"]}])
    status, body = imported(client, "t.json", text, dry_run="true")
    assert (status, body["rows"], body["dry_run"]) == (200, 1, True)
    assert answer(client) == "Org/Open"


def test_no_web_page_can_have_a_file_imported(client: TestClient) -> None:
    """A form's kinds of body go to other origins unasked: none of them is taken."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        headers = {**MINE, "Content-Type": kind}
        done = client.post("/v1/catalog/import?file=t.csv", content="x", headers=headers)
        assert done.status_code == 415
        assert "text/csv" in done.json()["error"]["next"]
    elsewhere = client.post(
        "/v1/resolve", content="a", headers={**MINE, "Content-Type": "text/csv"}
    )
    assert elsewhere.status_code == 415


def test_a_page_ends_with_a_whole_name_and_the_pages_together_are_the_table(
    client: TestClient,
) -> None:
    rows = [
        {"name": f"Org/N-{n:03}", "repo_id": f"Us/N-{n:03}-{mirror}-bnb-4bit"}
        for n in range(150) for mirror in range(1 + n % 3)
    ]  # fmt: skip
    assert imported(client, "t.json", json.dumps(rows))[0] == 200
    found: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        query = {"source": "file:t.json", "after": after, "limit": 7}
        page = client.get("/v1/catalog", params=query, headers=MINE).json()
        names = {row["name"] for row in page["mirrors"]}
        assert 7 <= len(page["mirrors"]) <= 9 or page["next"] is None
        assert not names & {row["name"] for row in found}
        found += page["mirrors"]
        after = page["next"]
    assert [(row["name"], row["repo_id"]) for row in found] == sorted(
        (row["name"], row["repo_id"]) for row in rows
    )


def test_a_name_without_rows_is_not_found_and_a_bad_mirror_is(client: TestClient) -> None:
    missing = client.get("/v1/catalog/Org/Nobody", headers=MINE)
    assert missing.status_code == 404
    assert "Org/Nobody" in missing.json()["error"]["message"]
    held = client.service.resolver.catalog()
    bad = BadMirror("Us/Bad-4bit", "Us/Good-4bit", "bnb-4bit", "it is broken", "test")
    held.import_rows(CatalogSource("test", "1", "a test", "", ""), [], [bad])
    found = client.get("/v1/catalog/us/bad-4BIT", headers=MINE)
    assert (found.status_code, found.json()["bad"]["reason"]) == (200, "it is broken")


def test_only_admins_write(hub: LoopbackHub, client: TestClient, start: Start) -> None:
    without = start()  # loopback, no tokens: nobody is an admin
    for headers, to, status in ((bearer(READ), client, 403), ({}, client, 401), ({}, without, 403)):
        assert to.post("/v1/catalog", json=ROW, headers=headers).status_code == status
        assert to.delete("/v1/catalog/Org/Open", headers=headers).status_code == status
        file = to.post("/v1/catalog/import?file=t.json", json=[], headers=headers)
        assert file.status_code == status
    page = {**MINE, "Origin": "http://elsewhere.example"}
    assert client.delete("/v1/catalog/Org/Open", headers=page).status_code == 403


def test_an_imported_row_goes_only_when_its_source_is_named(client: TestClient) -> None:
    name = "unsloth/Llama-3.2-1B-Instruct"
    rows = client.get(f"/v1/catalog/{name}", headers=MINE).json()["mirrors"]
    assert {row["source"] for row in rows} == {"packaged"}
    assert client.delete(f"/v1/catalog/{name}", headers=MINE).status_code == 404
    gone = client.delete(f"/v1/catalog/{name}?source=packaged", headers=MINE)
    assert gone.json()["removed"] > 0
