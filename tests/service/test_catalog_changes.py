"""Writing the catalogue over HTTP: as `mdl catalog add` and `rm`, for admins."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

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
    found = client.get("/v1/resolve?name=org/open&wish=bnb-4bit", headers=bearer(READ))
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
        ({"wish": "2bit"}, "wish"),
        ({"format": "gguf", "wish": "bnb-4bit"}, "cannot answer"),
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


def test_only_admins_write(hub: LoopbackHub, client: TestClient, start: Start) -> None:
    without = start()  # loopback, no tokens: nobody is an admin
    for headers, to, status in ((bearer(READ), client, 403), ({}, client, 401), ({}, without, 403)):
        assert to.post("/v1/catalog", json=ROW, headers=headers).status_code == status
        assert to.delete("/v1/catalog/Org/Open", headers=headers).status_code == status
    page = {**MINE, "Origin": "http://elsewhere.example"}
    assert client.delete("/v1/catalog/Org/Open", headers=page).status_code == 403


def test_an_imported_row_goes_only_when_its_source_is_named(client: TestClient) -> None:
    name = "unsloth/Llama-3.2-1B-Instruct"
    rows = client.get(f"/v1/catalog/{name}", headers=MINE).json()["mirrors"]
    assert {row["source"] for row in rows} == {"packaged"}
    assert client.delete(f"/v1/catalog/{name}", headers=MINE).status_code == 404
    gone = client.delete(f"/v1/catalog/{name}?source=packaged", headers=MINE)
    assert gone.json()["removed"] > 0
