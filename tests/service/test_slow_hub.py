"""A Hub that fails or is slow: what one caller meets must not become every caller's."""

import json
import socket
from collections.abc import Callable

import httpx2
import pytest

from tests.daemon.conftest import wait_for
from tests.hub import LoopbackHub
from tests.service.conftest import Process, Start


@pytest.fixture(autouse=True)
def no_waiting_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdl.resolver.hub_api.random.uniform", lambda low, high: 0.0)


def test_a_repository_that_the_hub_fails_on_takes_only_itself_offline(
    hub: LoopbackHub, start: Start
) -> None:
    hub.add_repo("Org/Fine", files={"config.json": "{}"})
    hub.fault("/api/models/Org/Broken*", status=500, times=None)
    client = start()
    assert client.get("/v1/resolve?name=Org/Broken").status_code == 424
    assert client.get("/v1/resolve?name=Org/Fine").status_code == 200


def test_a_hub_that_fails_on_several_repositories_is_left_alone_for_a_while(
    hub: LoopbackHub, start: Start
) -> None:
    hub.fault("*", status=500, times=None)
    client = start()
    for n in range(3):
        assert client.get(f"/v1/resolve?name=Org/Broken-{n}").status_code == 424
    asked = hub.count()
    assert client.get("/v1/resolve?name=Org/Other").status_code == 424
    assert hub.count() == asked


def test_a_large_request_gets_what_was_resolved_in_its_time(hub: LoopbackHub, start: Start) -> None:
    hub.add_repo("Org/Fine", files={"config.json": "{}"})
    hub.fault("*", latency=0.1, times=None)
    client = start(request_seconds=2.0)
    names = ["Org/Fine", *(f"Org/Unknown-{n}" for n in range(500))]
    response = client.post("/v1/resolve", json={"names": names})
    assert response.status_code == 200
    answers = response.json()["answers"]
    assert len(answers) == len(names)
    assert answers[0]["repo_id"] == "Org/Fine"
    assert answers[-1]["error"]["code"] == "busy"
    assert answers[-1]["requested"] == names[-1]


def test_work_ends_with_its_caller_and_readiness_does_not_wait_for_it(
    hub: LoopbackHub, serve: Callable[..., Process]
) -> None:
    hub.fault("*", latency=0.2, times=None)
    service = serve()
    body = json.dumps({"names": [f"Org/Unknown-{n}" for n in range(1000)]}).encode()
    head = (
        b"POST /v1/resolve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    callers = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(20)]
    for caller in callers:
        caller.sendall(head + body)
    wait_for(lambda: hub.count() > 20)
    assert httpx2.get(f"{service.url}/v1/ready", timeout=2).status_code == 200
    # Names that need a thread still get one.
    hub.add_repo("Org/Fine", files={"config.json": "{}"})
    fine = httpx2.get(f"{service.url}/v1/resolve?name=Org/Fine", timeout=10)
    assert fine.json()["repo_id"] == "Org/Fine"
    for caller in callers:
        caller.close()

    def threads_are_free() -> bool:
        text = httpx2.get(f"{service.url}/metrics").text
        return "mdl_waiting_for_a_thread 0.0" in text

    wait_for(threads_are_free)
