"""The commonest request is answered where it arrives; the caller must not be able to tell."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdl.service.protocol import read_plain
from tests.hub import LoopbackHub
from tests.service.conftest import READ, Process

Serve = Callable[..., Process]
KNOWN = ("unsloth/llama-3.2-1b-instruct", "Org/Open", "Org/Gated", "Org/Nothing")
NAMES = (*KNOWN, "../etc")


class Wire:
    """One connection, bytes in and parsed answers out."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = self._socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._socket.sendall(piece)

    def answer(self) -> tuple[int, dict[str, str], dict[str, Any]]:
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


def taken_straight(service: Process) -> int:
    """How many requests met no route: those have no task and no scope, but are counted alike."""
    wire = Wire(service.port)
    wire.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    text = wire._read.read().decode()
    wire.close()
    lines = [line for line in text.splitlines() if line.startswith("mdl_straight_answers ")]
    return int(lines[0].split()[1])


def test_both_ways_give_the_same_answer(service: Process, wire: Wire) -> None:
    for name in NAMES:
        wire.send(request(name))  # the first one asks the Hub, and goes the long way
        wire.answer()
        whole = request(name)
        before = taken_straight(service)
        wire.send(whole)
        straight = wire.answer()
        was_straight = taken_straight(service) > before
        assert was_straight == (name in KNOWN)
        wire.send(request(name, "Expect: nothing"))  # h11 and the routes see to this one
        status, headers, body = wire.answer()
        assert taken_straight(service) == before + was_straight
        assert (straight[0], straight[2].keys()) == (status, body.keys())
        ignored = {"date": "", "x-request-id": ""}
        assert straight[1] | ignored == headers | ignored
        told = {"request_id": "", "knowledge_age": 0}
        assert straight[2] | told == body | told


def test_a_head_in_pieces_and_two_requests_in_one_piece_are_answered_in_order(wire: Wire) -> None:
    for _ in range(2):
        whole = request("Org/Open")
        wire.send(whole[:20], whole[20:31], whole[31:])
        assert wire.answer()[2]["repo_id"] == "Org/Open"
        wire.send(request("Org/Open") + request("Org/Nothing") + request("Org/Open"))
        assert [wire.answer()[0] for _ in range(3)] == [200, 404, 200]
        wire.send(whole)
        assert wire.answer()[0] == 200


def test_on_one_connection_each_request_has_its_own_access(wire: Wire) -> None:
    alice = "X-Hub-Token: hf_alice_token"
    for _ in range(3):
        wire.send(request("Org/Gated", alice, format="16bit"))
        assert wire.answer()[2]["access"] == "granted"
        wire.send(request("Org/Gated", format="16bit"))
        assert wire.answer()[2]["access"] == "no_token"


def test_who_may_not_speak_is_not_answered_on_the_straight_way_either(
    hub: LoopbackHub, serve: Serve
) -> None:
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
            assert wire.answer()[0] == status
        wire.send(request("Org/Open", mine).replace(b"127.0.0.1", b"evil.example"))
        assert wire.answer()[0] == 421
    wire.close()


HEADERS = st.lists(
    st.one_of(
        st.sampled_from(
            [b"Host: a", b"host:b", b"Connection: keep-alive", b"Connection: close",
             b"Content-Length: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked",
             b"X-Hub-Token: hf_x", b"Accept: */*", b"X : y", b" folded", b"X:\ty\t", b"X:"]
        ),
        st.binary(max_size=12),
    ),
    max_size=5,
)  # fmt: skip
TARGETS = st.one_of(
    st.sampled_from([b"/v1/resolve?name=a/b", b"/v1/resolve?", b"/v1/resolve", b"/v1/resolve?a b"]),
    st.binary(max_size=12).map(lambda text: b"/v1/resolve?" + text),
)


@given(
    target=TARGETS,
    lines=HEADERS,
    end=st.sampled_from([b"\r\n\r\n", b"\r\n", b"\n\n", b"\r\n\r\nG", b"\r\n\r\n\r\n"]),
    version=st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2"]),
)
def test_what_is_taken_as_plain_is_what_h11_reads_in_it(
    target: bytes, lines: list[bytes], end: bytes, version: bytes
) -> None:
    """Never a head that h11 reads otherwise, refuses, or sees a body behind."""
    data = b"\r\n".join([b"GET " + target + b" " + version, b"Host: 127.0.0.1", *lines]) + end
    ask = read_plain(data)
    if ask is None:
        return
    judge = h11.Connection(h11.SERVER)
    judge.receive_data(data)
    event = judge.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.http_version) == (b"GET", b"1.1")
    assert event.target == b"/v1/resolve?" + ask.query
    assert dict(event.headers) == ask.headers
    assert len(event.headers) == len(ask.headers)
    assert isinstance(judge.next_event(), h11.EndOfMessage)
    assert judge.trailing_data == (b"", False)
    assert judge.their_state is not h11.MUST_CLOSE
