"""Requests on one connection: in pieces, several in one piece, each with its own access."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.hub import LoopbackHub
from tests.service.conftest import READ, Process

Serve = Callable[..., Process]


class Wire:
    """One connection, bytes in, parsed responses out."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = self._socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._socket.sendall(piece)

    def response(self) -> tuple[int, dict[str, str], dict[str, Any]]:
        status = int(self._read.readline().split()[1])
        headers = {}
        while line := self._read.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status, headers, json.loads(self._read.read(int(headers["content-length"])))

    def close(self) -> None:
        self._read.close()
        self._socket.close()


def request(name: str, *lines: str, format: str = "bnb-4bit") -> bytes:
    head = [
        f"GET /v1/resolve?name={name}&format={format} HTTP/1.1",
        "Host: 127.0.0.1",
        *lines,
        "",
        "",
    ]
    return "\r\n".join(head).encode()


@pytest.fixture
def service(hub: LoopbackHub, serve: Serve) -> Process:
    hub.add_user("hf_alice_token", "alice")
    mirror = "unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit"
    for name in ("Org/Open", "unsloth/Llama-3.2-1B-Instruct", mirror):
        hub.add_repo(name, files={"config.json": "{}"})
    hub.add_repo("Org/Gated", files={"config.json": "{}"}, gated="manual",
                 access={"hf_alice_token": "granted"})  # fmt: skip
    return serve()


@pytest.fixture
def wire(service: Process) -> Iterator[Wire]:
    made = Wire(service.port)
    yield made
    made.close()


def test_a_head_in_pieces_and_two_requests_in_one_piece_get_responses_in_order(wire: Wire) -> None:
    for _ in range(2):
        whole = request("Org/Open")
        wire.send(whole[:20], whole[20:31], whole[31:])
        assert wire.response()[2]["repo_id"] == "Org/Open"
        wire.send(request("Org/Open") + request("Org/Nothing") + request("Org/Open"))
        assert [wire.response()[0] for _ in range(3)] == [200, 404, 200]
        wire.send(whole)
        assert wire.response()[0] == 200


def test_on_one_connection_each_request_has_its_own_access(wire: Wire) -> None:
    alice = "X-Hub-Token: hf_alice_token"
    for _ in range(3):
        wire.send(request("Org/Gated", alice, format="16bit"))
        assert wire.response()[2]["access"] == "granted"
        wire.send(request("Org/Gated", format="16bit"))
        assert wire.response()[2]["access"] == "no_token"


def test_every_request_of_a_connection_is_authenticated(hub: LoopbackHub, serve: Serve) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    service = serve(MDL_SERVE_TOKENS=f"read {READ}")
    wire = Wire(service.port)
    mine = f"Authorization: Bearer {READ}"
    for _ in range(2):
        for lines, status in (
            ((mine,), 200),
            ((), 401),
            (("Authorization: Bearer wrong-token-0123456789",), 401),
            ((mine, "X-Hub-Token: a\tb"), 400),
        ):
            wire.send(request("Org/Open", *lines))
            assert wire.response()[0] == status
        wire.send(request("Org/Open", mine).replace(b"127.0.0.1", b"evil.example"))
        assert wire.response()[0] == 421
    wire.close()
