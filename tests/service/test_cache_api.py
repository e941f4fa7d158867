"""The cache over HTTP: listing, plan, action, and taking it back."""

import json
import os
import subprocess
import sys
import time

from tests.hub import LoopbackHub
from tests.service.conftest import ADMIN, Start, bearer, cached_repo

MINE = bearer(ADMIN)


def test_the_listing_is_the_commands(hub: LoopbackHub, start: Start) -> None:
    client = start(tokens=f"admin {ADMIN}")
    cached_repo(client.service.cache.root, "Org/Name", {"config.json": b"{}"})
    client.service.cache.forget()
    told = client.get("/v1/cache", headers=MINE).json()
    command = [sys.executable, "-m", "mdl", "cache", "ls", "--json"]
    printed = json.loads(
        subprocess.run(command, capture_output=True, check=True, env=dict(os.environ)).stdout
    )
    assert told["repos"] == printed["repos"]
    assert told["root"] == printed["root"]


def test_a_plan_is_carried_out_only_as_it_was_looked_at(hub: LoopbackHub, start: Start) -> None:
    client = start(tokens=f"admin {ADMIN}")
    root = client.service.cache.root
    old = cached_repo(root, "Org/Old", {"model.safetensors": b"x" * 5000})
    long_ago = time.time() - 90 * 86400
    for path in (old / "blobs").iterdir():
        os.utime(path, (long_ago, long_ago))
    rule = {"kind": "prune", "unused_for": "30d"}
    plan = client.post("/v1/cache/plans", json=rule, headers=MINE).json()
    assert [gone["repo_id"] for gone in plan["remove"]] == ["Org/Old"]
    assert (old / "snapshots").exists()

    for other in ({"plan": rule, "digest": "0" * 16},
                  {"plan": {**rule, "now": True}, "digest": plan["digest"]}):  # fmt: skip
        assert client.post("/v1/cache/actions", json=other, headers=MINE).status_code == 409
    assert (old / "snapshots").exists()

    real = {"plan": rule, "digest": plan["digest"]}
    done = client.post("/v1/cache/actions", json=real, headers=MINE).json()
    assert not old.exists()
    assert done["freed"] == 5000
    journal = client.get("/v1/cache/actions", headers=MINE).json()["actions"]
    assert journal[-1]["id"] == done["action"]


def test_a_plan_needs_a_kind_and_sane_values(hub: LoopbackHub, start: Start) -> None:
    client = start()
    for body in (
        {"max_size": "many"},
        {"unused_for": "x"},
        {"unused_for": "3m"},
        {"keep_last": -1},
        {"x": 1},
    ):
        answer = client.post("/v1/cache/plans", json={"kind": "prune", **body})
        assert answer.status_code == 400
    assert client.post("/v1/cache/plans", json={"detached": True}).status_code == 400


def test_a_plan_without_rules_is_the_commands_plan(hub: LoopbackHub, start: Start) -> None:
    client = start()
    default = client.post("/v1/cache/plans", json={"kind": "prune"}).json()
    rules = {"detached": True, "incomplete": True}
    spelled_out = client.post("/v1/cache/plans", json={"kind": "prune", **rules}).json()
    assert default["keep"] == spelled_out["keep"]
    assert default["remove"] == spelled_out["remove"]


def test_one_repository_in_any_casing(hub: LoopbackHub, start: Start) -> None:
    client = start()
    cached_repo(client.service.cache.root, "Org/Name", {"config.json": b"{}"})
    client.service.cache.forget()
    (repo,) = client.get("/v1/cache/org/NAME").json()["repos"]
    assert repo["repo_id"] == "Org/Name"
    assert client.get("/v1/cache/org/other").status_code == 404
    assert client.get("/v1/cache/..%2f..%2fetc").status_code in (400, 404)


def test_an_event_tells_that_the_cache_changed(hub: LoopbackHub, serve: object) -> None:
    import http.client

    service = serve()  # type: ignore[operator]
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", "/v1/events")
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")

    def next_version() -> str:
        while True:
            line = answer.readline().decode()
            assert line, "the stream ended"
            if line.startswith("data: "):
                return str(json.loads(line[6:])["version"])

    first = next_version()
    from pathlib import Path

    cached_repo(Path(os.environ["HF_HOME"]) / "hub", "Org/New", {"config.json": b"{}"})
    assert next_version() != first
    code, _ = service.stop()  # an open stream does not hold the end up
    assert code == 0
    connection.close()
