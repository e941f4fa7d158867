"""Clients that are slow, gone or too many; a name that is none; an end in the middle."""

import asyncio
import contextlib
import http.client
import json
import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mdl.service.app import create_app
from mdl.service.config import ServiceConfig
from mdl.service.request_log import LogWriter
from mdl.service.state import Service
from mdl.settings import load_settings
from mdl.store.catalog import open_catalog
from mdl.store.rows import CatalogSource, MirrorRow
from tests.daemon.conftest import wait_for
from tests.hub import LoopbackHub
from tests.service.conftest import Process

Serve = Callable[..., Process]


def health(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/v1/health")
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_head_that_never_ends_is_cut_off_and_nobody_else_waits(
    hub: LoopbackHub, serve: Serve, monkeypatch: object
) -> None:
    service = serve()
    with socket.create_connection(("127.0.0.1", service.port)) as slow:
        slow.sendall(b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        start = time.monotonic()
        assert health(service.port) == 200
        slow.settimeout(15)
        try:
            assert slow.recv(100) == b""
        except ConnectionResetError:
            pass
        assert 8 < time.monotonic() - start < 15


@pytest.mark.parametrize("path", ["/v1/resolve", "/v1/cache/actions", "/v1/cache/verify"])
def test_a_body_that_never_comes_is_not_waited_for(hub_env: dict[str, str], path: str) -> None:
    """Also where the answer may take as long as it takes."""
    config = ServiceConfig(log_requests=False, body_seconds=0.1)
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"),
               (b"content-length", b"100")]  # fmt: skip
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
             "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http",
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}  # fmt: skip
    messages: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        messages.append(message)

    async def ask() -> None:
        beginning = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive() -> dict[str, Any]:
            return beginning.pop() if beginning else await asyncio.Future()

        app = create_app(Service(load_settings(), config))
        async with asyncio.timeout(5):
            await app(scope, receive, send)

    asyncio.run(ask())
    assert messages[0]["status"] == 408
    assert (b"connection", b"close") in messages[0]["headers"]


def test_a_client_that_hangs_up_harms_nobody(hub: LoopbackHub, serve: Serve) -> None:
    service = serve()
    for path in ("/v1/cache", "/", "/v1/events", "/v1/resolve?name=a/b") * 5:
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = "Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    token = "admin-token-0123456789"
    admin = serve(MDL_SERVE_TOKENS=f"admin {token}")
    for path in ("/v1/resolve", "/v1/cache/plans", "/v1/catalog/import?file=t.json"):
        with socket.create_connection(("127.0.0.1", admin.port)) as client:
            said = f"POST {path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n{head}"
            client.sendall(said.encode())
    for one in (service, admin):
        assert health(one.port) == 200
        code, errors = one.stop()
        assert code == 0
        assert "Traceback" not in errors


def test_a_client_that_asks_and_never_reads_holds_up_nobody(hub: LoopbackHub, serve: Serve) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    service = serve()
    ask = b"GET /v1/resolve?name=Org/Open HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as warm:
        warm.sendall(ask)
        assert warm.recv(12) == b"HTTP/1.1 200"
    before = memory(service)
    with socket.create_connection(("127.0.0.1", service.port)) as greedy:
        greedy.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while sent < 20_000:  # until it takes no more, or hangs up
                sent += greedy.send(ask * 50) // len(ask)
        for _ in range(20):
            assert health(service.port) == 200
        assert memory(service) - before < 20 << 20
    assert health(service.port) == 200


def memory(service: Process) -> int:
    text = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) << 10


def test_connections_over_the_limit_are_told_to_come_back(hub: LoopbackHub, serve: Serve) -> None:
    service = serve("--max-connections", "20")
    held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(60)]
    try:
        refused = 0
        for connection in held[20:]:
            connection.settimeout(10)
            refused += connection.recv(12) == b"HTTP/1.1 503"
        assert refused == 40
    finally:
        for connection in held:
            connection.close()
    end = time.monotonic() + 10  # the server learns of it in its own time
    while (status := health(service.port)) != 200:
        assert (status, time.monotonic() < end) == (503, True)


def test_what_is_no_http_is_refused_and_a_huge_head_too(hub: LoopbackHub, serve: Serve) -> None:
    service = serve()
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 20000):
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(data)
            client.settimeout(10)
            assert client.recv(12) == b"HTTP/1.1 400"
    assert health(service.port) == 200


def test_many_at_once_on_a_cold_start_all_get_answers(hub: LoopbackHub, serve: Serve) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    service = serve()

    def ask(n: int) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        name = "Org/Open" if n % 2 else "unsloth/Llama-3.2-1B-Instruct"
        connection.request("GET", f"/v1/resolve?name={name}")
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        return str(found["error"]["code"] if "error" in found else found["repo_id"])

    with ThreadPoolExecutor(16) as threads:
        found = set(threads.map(ask, range(40)))
    assert found == {"Org/Open", "not_found"}


def test_a_log_that_nobody_reads_holds_up_no_answer(hub: LoopbackHub, serve: Serve) -> None:
    service = serve()  # its standard error is a pipe of 64 KiB, which is read at the end only
    for _ in range(1000):
        assert health(service.port) == 200
    code, errors = service.stop()
    assert code == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    assert len(lines) == 1000


def test_warnings_that_nobody_reads_hold_up_no_answer(hub: LoopbackHub, serve: Serve) -> None:
    service = serve(MDL_DATABASE_URL="postgresql+psycopg://nobody@127.0.0.1:9/none")
    for n in range(500):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        connection.request("GET", f"/v1/resolve?name=Org/Unknown-{n}")
        assert connection.getresponse().status == 503
        connection.close()
    code, errors = service.stop()
    assert code == 0
    warnings = [line for line in errors.splitlines() if not line.startswith("{")]
    assert len("".join(warnings)) > 2**16  # more than the pipe holds, or this tested nothing


def test_lines_are_dropped_and_counted_when_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdl.service.request_log._MOST_WAITING", 3)
    read, write = os.pipe()
    writer = LogWriter(write)
    for n in range(5):
        writer.handler.handle(line(f"r{n}"))
    assert writer.handler.queue.get().getMessage() == "r0"
    writer.handler.handle(line("r5"))
    writer.start(requests=True)
    writer.close()
    os.close(write)
    with os.fdopen(read) as lines:
        found = lines.read().splitlines()
    assert found[:2] == ["r1", "r2"]
    assert json.loads(found[2])["lost"] == 2
    assert found[3:] == ["r5"]


def test_a_log_that_does_not_block_loses_no_line() -> None:
    """A pipe that its owner made non-blocking is full at times, not gone."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    writer = LogWriter(write)
    many = [f"{n} {'x' * 100}" for n in range(2000)]  # three times what a pipe takes
    for text in many:
        writer.handler.handle(line(text))
    with ThreadPoolExecutor(1) as reading, os.fdopen(read) as lines:
        reader = reading.submit(lambda: lines.read().splitlines())
        writer.start(requests=True)
        writer.close()
        os.close(write)
        assert reader.result(timeout=10) == many


def line(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "mdl.service.request", "msg": text})


def test_sigterm_ends_with_code_0_and_the_log_has_one_line_a_request_and_no_secret(
    hub: LoopbackHub, serve: Serve
) -> None:
    service = serve()
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    headers = {"X-Hub-Token": "hf_secret_0123", "Authorization": "Bearer some-secret-token"}
    connection.request("GET", "/v1/resolve?name=Org/Nothing", headers=headers)
    connection.getresponse().read()
    connection.close()
    code, errors = service.stop()
    assert code == 0
    lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert [(line["route"], line["status"], line["name"]) for line in lines] == [
        ("/v1/resolve", 404, "Org/Nothing")
    ]
    assert "secret" not in errors


def test_with_json_it_says_where_it_listens_as_an_object(hub: LoopbackHub, serve: Serve) -> None:
    service = serve("--json")
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", "/v1/health")
    assert connection.getresponse().status == 200
    connection.close()


def test_sigterm_under_load_ends_with_code_0_and_what_was_answered_is_in_the_log(
    hub: LoopbackHub, serve: Serve
) -> None:
    """Connections to the database are closed under nobody: that would end the process at once."""
    catalog = open_catalog(load_settings())
    rows = [
        MirrorRow(f"Org/Name-{n}", "bnb-4bit", f"Mirrors/Name-{n}-4bit", "bnb-4bit", "plain", 0,
                  "declared", "test") for n in range(20_000)
    ]  # fmt: skip
    catalog.import_rows(CatalogSource("test", "1", "a test", "", ""), rows)
    service = serve(HF_HUB_OFFLINE="1")
    answered: set[str] = set()

    def ask(first: int) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
            for n in range(first, len(rows), 4):
                connection.request("GET", f"/v1/resolve?name=Org/Name-{n}&format=bnb-4bit")
                if connection.getresponse().read():
                    answered.add(f"Org/Name-{n}")

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask, n) for n in range(4)]
        wait_for(lambda: len(answered) > 1500)
        code, errors = service.stop()
        assert not all(one.done() and len(answered) == len(rows) for one in asking)
    assert code == 0
    assert "Traceback" not in errors
    logged = {row["requested"] for row in catalog.history(limit=len(rows))}
    catalog.database.close()
    assert answered <= logged
