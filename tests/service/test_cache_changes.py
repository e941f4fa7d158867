"""Changing the cache over HTTP: the plan first, then the very same plan; the commands' JSON."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.hub import LoopbackHub
from tests.service.conftest import ADMIN, READ, Start, bearer, cached_repo

MINE = bearer(ADMIN)
LONG_AGO = time.time() - 90 * 86400


def fill(root: Path) -> None:
    """One repository in two casings, and one that nobody used for long."""
    for name in ("Org/Name", "org/name"):
        cached_repo(root, name, {"model.safetensors": b"w" * 4000, "config.json": b"{}"})
    cached_repo(root, "Org/Old", {"model.safetensors": b"x" * 5000})
    for path in root.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)


@pytest.fixture
def client(hub: LoopbackHub, start: Start) -> TestClient:
    made = start(tokens=f"admin {ADMIN};read {READ}")
    fill(made.service.cache.root)  # type: ignore[attr-defined]
    return made


@pytest.fixture
def other(client: TestClient, tmp_path: Path) -> Path:
    """The same cache once more, for the command."""
    root = tmp_path / "other" / "hf" / "hub"
    shutil.copytree(client.service.cache.root, root, symlinks=True)  # type: ignore[attr-defined]
    return root


def printed(root: Path, *arguments: str) -> dict[str, Any]:
    """What `mdl cache … --json` says of another cache, with a home of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "mdl", "cache", *arguments, "--json", "--cache-dir", str(root)],
        capture_output=True, text=True,
        env={**os.environ, "MDL_HOME": str(root.parent / "mdl")},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def plan(client: TestClient, **wanted: Any) -> dict[str, Any]:
    answer = client.post("/v1/cache/plans", json=wanted, headers=MINE)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def act(client: TestClient, digest: str, **wanted: Any) -> dict[str, Any]:
    body = {"plan": wanted, "digest": digest}
    answer = client.post("/v1/cache/actions", json=body, headers=MINE)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """Without what differs between two caches that are alike: places, moments, the digest."""
    return {
        key: value for key, value in found.items() if key not in ("digest", "trash", "at", "root")
    }


CHANGES = {
    "prune": ({"kind": "prune", "older_than": "30d", "detached": True},
              ("prune", "--older-than", "30d", "--detached")),
    "rm": ({"kind": "rm", "target": "Org/Old"}, ("rm", "Org/Old")),
    "rm now": ({"kind": "rm", "target": "org/name@main", "now": True},
               ("rm", "org/name@main", "--now")),
    "normalize": ({"kind": "normalize"}, ("normalize",)),
    "normalize lower": ({"kind": "normalize", "name": "ORG/NAME", "to": "lower"},
                        ("normalize", "ORG/NAME", "--to", "lower")),
    "normalize a type": ({"kind": "normalize", "repo_type": "dataset"},
                         ("normalize", "--type", "dataset")),
    "normalize hub, unknown": ({"kind": "normalize", "to": "hub"}, ("normalize", "--to", "hub")),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_plan_and_action_are_the_commands_json(
    client: TestClient, other: Path, change: str
) -> None:
    wanted, command = CHANGES[change]
    planned = plan(client, **wanted)
    assert plain(planned) == plain(printed(other, *command, "--dry-run"))
    done = act(client, planned["digest"], **wanted)
    # Where nothing was there to do, the command does not say what it did.
    assert plain(printed(other, *command, "--yes")).items() <= plain(done).items()


def test_a_pin_is_set_listed_and_taken_away(client: TestClient, other: Path) -> None:
    wanted = {"kind": "pin", "name": "Org/Old@main"}
    assert (
        plan(client, **wanted)["pins"] == printed(other, "pin", "Org/Old@main", "--dry-run")["pins"]
    )
    (row,) = act(client, plan(client, **wanted)["digest"], **wanted)["pins"]
    (said,) = printed(other, "pin", "Org/Old@main")["pins"]
    assert plain(row) == plain(said)
    assert client.get("/v1/cache/pins", headers=bearer(READ)).json()["pins"] == [row]
    rule = {"kind": "prune", "unused_for": "30d"}
    assert "Org/Old" not in [gone["repo_id"] for gone in plan(client, **rule)["remove"]]

    refused = {"kind": "rm", "target": "Org/Old"}
    answer = client.post("/v1/cache/plans", json=refused, headers=MINE)
    assert (answer.status_code, "pinned" in answer.text) == (400, True)

    away = {"kind": "unpin", "name": "org/OLD@main"}
    assert act(client, plan(client, **away)["digest"], **away)["pins"] == []
    assert plan(client, **wanted)["notes"] == []
    waits = {"kind": "pin", "name": "Org/Nowhere"}
    planned = plan(client, **waits)
    assert planned["notes"] == [
        "Org/Nowhere is not in the cache yet; the pin will apply once it is."
    ]
    assert act(client, planned["digest"], **waits)["notes"] == planned["notes"]
    assert client.post("/v1/cache/plans", json=away, headers=MINE).status_code == 404


def test_what_was_removed_waits_in_the_trash_and_comes_back(
    client: TestClient, other: Path
) -> None:
    root: Path = client.service.cache.root  # type: ignore[attr-defined]
    old = root / "models--Org--Old"
    gone = {"kind": "rm", "target": "Org/Old"}
    number = act(client, plan(client, **gone)["digest"], **gone)["action"]
    assert not old.exists()
    printed(other, "rm", "Org/Old", "--yes")
    (entry,) = client.get("/v1/cache/trash", headers=MINE).json()["entries"]
    (said,) = printed(other, "trash", "ls")["entries"]
    assert {**plain(entry), "path": ""} == {**plain(said), "path": ""}

    back = {"kind": "restore", "id": number}
    planned = plan(client, **back)
    assert not old.exists()
    assert plain(planned) == plain(printed(other, "trash", "restore", str(said["id"]), "--dry-run"))
    act(client, planned["digest"], **back)
    assert old.exists()
    assert client.post("/v1/cache/plans", json=back, headers=MINE).status_code == 404


def test_undo_takes_back_the_action_that_was_looked_at_and_no_other(
    client: TestClient,
) -> None:
    root: Path = client.service.cache.root  # type: ignore[attr-defined]
    first, second = {"kind": "rm", "target": "Org/Old"}, {"kind": "rm", "target": "Org/Name"}
    act(client, plan(client, **first)["digest"], **first)
    undo = plan(client, kind="undo")
    assert undo["kind"] == "rm"
    act(client, plan(client, **second)["digest"], **second)
    body = {"plan": {"kind": "undo"}, "digest": undo["digest"]}
    assert client.post("/v1/cache/actions", json=body, headers=MINE).status_code == 409
    assert not (root / "models--Org--Old").exists()
    act(client, plan(client, kind="undo")["digest"], kind="undo")
    assert (root / "models--Org--Name").exists()


def test_emptying_erases_what_was_looked_at_and_not_what_came_after(client: TestClient) -> None:
    first, second = {"kind": "rm", "target": "Org/Old"}, {"kind": "rm", "target": "Org/Name"}
    number = act(client, plan(client, **first)["digest"], **first)["action"]
    empty = plan(client, kind="empty")
    assert (empty["erased"], empty["freed"]) == ([number], 5000)
    act(client, plan(client, **second)["digest"], **second)
    body = {"plan": {"kind": "empty"}, "digest": empty["digest"]}
    assert client.post("/v1/cache/actions", json=body, headers=MINE).status_code == 409

    some = {"kind": "empty", "ids": [number]}
    act(client, plan(client, **some)["digest"], **some)
    (left,) = client.get("/v1/cache/trash", headers=MINE).json()["entries"]
    assert left["id"] != number
    states = {
        action["id"]: action["state"]
        for action in client.get("/v1/cache/actions", headers=MINE).json()["actions"]
    }
    assert states[number] == "emptied"


def test_a_verification_is_the_commands_report(client: TestClient, other: Path) -> None:
    good = client.post("/v1/cache/verify", json={"names": ["Org/Old"]}, headers=MINE)
    assert good.status_code == 200
    assert plain(good.json()) == plain(printed(other, "verify", "Org/Old"))

    for root in (client.service.cache.root, other):  # type: ignore[attr-defined]
        (blob,) = (root / "models--Org--Old" / "blobs").iterdir()
        blob.write_bytes(b"y" * 5000)
    bad = client.post("/v1/cache/verify", json={}, headers=MINE)
    assert bad.status_code == 409
    assert bad.json()["error"]["code"] == "verification_failed"
    report, said = plain(bad.json()), plain(printed(other, "verify"))
    # What the first run found right is passed over, in both.
    assert report == said
    assert client.post("/v1/cache/verify", json={"throttle": "x"}, headers=MINE).status_code == 400


def test_the_servers_own_hub_token_finds_no_spelling(
    hub: LoopbackHub, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_user("hf_alice_token", "alice")
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    hub.add_repo("alice/Secret", files={"config.json": "{}"}, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_alice_token")
    client = start(tokens=f"admin {ADMIN}")
    for name in ("org/open", "alice/secret"):
        cached_repo(client.service.cache.root, name, {"config.json": b"{}"})  # type: ignore[attr-defined]
    groups = plan(client, kind="normalize", to="hub")["groups"]
    assert {group["target"]: bool(group["skipped"]) for group in groups} == {
        "Org/Open": False,
        None: True,
    }


def test_only_admins_change_and_verify(client: TestClient) -> None:
    reader = bearer(READ)
    action = {"plan": {"kind": "pin", "name": "Org/Old"}, "digest": "0" * 16}
    for method, path, body in (
        ("POST", "/v1/cache/plans", {"kind": "normalize"}),
        ("POST", "/v1/cache/actions", action),
        ("POST", "/v1/cache/verify", {}),
        ("GET", "/v1/cache/trash", None),
    ):
        assert client.request(method, path, json=body, headers=reader).status_code == 403


def test_what_is_no_plan_is_refused(client: TestClient) -> None:
    for body in (
        {"kind": "burn"},
        {"kind": "rm"},
        {"kind": "rm", "target": "Org/Old", "force": True},
        {"kind": "rm", "target": "../../etc"},
        {"kind": "pin", "name": "../etc"},
        {"kind": "normalize", "to": "sideways"},
        {"kind": "empty", "older_than": "long"},
        {"kind": "restore", "id": 0},
    ):
        answer = client.post("/v1/cache/plans", json=body, headers=MINE)
        assert answer.status_code in (400, 404), (body, answer.text)
        assert answer.json()["error"]["message"]
    wrong = {"kind": "prune", "older_than": [30]}
    said = client.post("/v1/cache/plans", json=wrong, headers=MINE).json()["error"]["message"]
    assert "prune.older_than is not valid: Input should be a valid string; or" in said
    assert said.endswith("a valid number.")


def test_the_listing_is_answered_while_a_change_takes_its_time(client: TestClient) -> None:
    """A change that waits for another mdl process holds up no reader."""
    import threading

    from mdl.cachemgr.journal.locks import root_mutex

    cache = client.service.cache  # type: ignore[attr-defined]
    wanted = {"kind": "rm", "target": "Org/Old"}
    digest = plan(client, **wanted)["digest"]
    done: list[dict[str, Any]] = []
    from mdl.cachemgr import open_cache

    lock = open_cache(cache.settings)._mutex_file
    with root_mutex(str(cache.root), lock, wait=0.0):
        acting = threading.Thread(target=lambda: done.append(act(client, digest, **wanted)))
        acting.start()
        cache.forget()
        assert client.get("/v1/cache", headers=MINE).status_code == 200
        assert acting.is_alive()
    acting.join(20)
    assert done[0]["freed"] == 5000
