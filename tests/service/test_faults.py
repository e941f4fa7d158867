"""Clients that are slow, gone or too many; a name that is none; an end in the middle."""

import http.client
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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


def test_a_client_that_hangs_up_harms_nobody(hub: LoopbackHub, serve: Serve) -> None:
    service = serve()
    for path in ("/v1/cache", "/", "/v1/events", "/v1/resolve?name=a/b") * 5:
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    assert health(service.port) == 200
    code, errors = service.stop()
    assert code == 0
    assert "Traceback" not in errors


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
    assert health(service.port) == 200


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
