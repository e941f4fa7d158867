"""What an attacker sends, byte by byte, to a service on a real socket."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn

from mdl.service.config import ServiceConfig
from mdl.service.server import uvicorn_config
from mdl.service.state import Service
from mdl.settings import load_settings
from tests.daemon.conftest import wait_for
from tests.hub import LoopbackHub

HOST = b"Host: 127.0.0.1\r\n"
CLOSE = b"Connection: close\r\n"
KEEP = b"Connection: keep-alive\r\n"
END = b"\r\n"
Listen = Callable[..., int]


@pytest.fixture
def listen(hub_env: dict[str, str]) -> Iterator[Listen]:
    """Start the service in a thread, with these limits; returns its port."""
    with contextlib.ExitStack() as stack:

        def start(**limits: float) -> int:
            config = ServiceConfig(log_requests=False, **limits)  # type: ignore[arg-type]
            server = uvicorn.Server(uvicorn_config(Service(load_settings(), config)))
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join()

            stack.callback(stop)
            return int(listener.getsockname()[1])

        yield start


def answered(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that comes back until the service closes, or has sent one response."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)
        found = b""
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(65536):
                found += piece
        return found


def statuses(response: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", response)]


def get(target: bytes = b"/v1/health", *lines: bytes, host: bytes = HOST) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + host + b"".join(lines or (CLOSE,)) + END


_TCP_CLOSE = 7  # TCP_INFO's first byte
ATTACKS = {
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", [400]),
    "a method that does not exist": (b"BREW / HTTP/1.1\r\n" + HOST + END, [400]),
    "a method of 5,000 letters": (b"A" * 5000 + b" / HTTP/1.1\r\n" + HOST + END, [400]),
    "no target": (b"GET HTTP/1.1\r\n" + HOST + END, [400]),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\n" + HOST + END, [400]),
    "a line folded": (get(b"/v1/health", b"X: a\r\n b\r\n"), [400]),
    "a space before the colon": (get(b"/v1/health", b"X : a\r\n"), [400]),
    "a NUL in a header": (get(b"/v1/health", b"X: a\0b\r\n"), [400]),
    "a bare CR in a header": (get(b"/v1/health", b"X: a\rb\r\n"), [400]),
    "no host": (get(host=b""), [421]),
    "two hosts": (get(host=HOST * 2), [421]),
    "the host of another site": (get(host=b"Host: evil.example\r\n"), [421]),
    "two lengths": (
        b"POST /v1/resolve HTTP/1.1\r\n" + HOST + CLOSE
        + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}abc", [400],
    ),
    "a negative length": (
        b"POST /v1/resolve HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: -1\r\n\r\n{}", [400],
    ),
    "a chunk without a size": (
        b"POST /v1/resolve HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", [400],
    ),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", [400]),
    "a proxy's target of another host": (get(b"http://evil.example/v1/health"), [400]),
    "a proxy's target of this host": (get(b"http://127.0.0.1/v1/health"), [200]),
    "an address without a path": (get(b"http://127.0.0.1"), [200]),
    "dots in the path": (get(b"/page/../../etc/passwd"), [404]),
    "dots in the path, encoded": (get(b"/page/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), [404]),
    "a NUL in the path": (get(b"/v1/cache/a%00b"), [400]),
    "a repository that is a path": (get(b"/v1/cache/..%2f..%2fetc"), [400]),
}  # fmt: skip


@pytest.fixture
def port(listen: Listen) -> int:
    return listen()


def test_what_is_malformed_or_means_another_host_is_refused(hub: LoopbackHub, port: int) -> None:
    found = {name: statuses(answered(port, sent)) for name, (sent, _) in ATTACKS.items()}
    assert found == {name: expected for name, (_, expected) in ATTACKS.items()}
    assert statuses(answered(port, get())) == [200]


def test_a_length_beside_chunks_smuggles_no_second_request(hub: LoopbackHub, port: int) -> None:
    smuggled = get(b"/v1/cache")
    head = b"POST /v1/resolve HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Type: application/json\r\n"
    for lines in (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: identity, chunked\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
    ):
        response = answered(port, head + lines + END + b"0\r\n\r\n" + smuggled)
        assert len(statuses(response)) == 1
        assert statuses(response)[0] >= 400


@pytest.mark.parametrize("size", [15_000, 17_000])
def test_the_limit_of_a_head_is_the_same_whatever_the_packets(
    hub: LoopbackHub, port: int, size: int
) -> None:
    whole = get(b"/v1/health", b"X: " + b"a" * size + b"\r\n", CLOSE)
    many = get(b"/v1/health", *(b"X: " + b"a" * 95 + b"\r\n" for _ in range(size // 100)), CLOSE)
    long_target = get(b"/v1/health?" + b"a" * size, CLOSE)
    expected = [200] if size < 16_000 else [400]
    for sent in (whole, many, long_target):
        for step in (len(sent), 5000, 700):
            pieces = [sent[i : i + step] for i in range(0, len(sent), step)]
            assert statuses(answered(port, *pieces, pause=0.002)) == expected


def test_a_head_that_never_ends_takes_no_memory(hub: LoopbackHub, port: int) -> None:
    pieces = [b"GET / HTTP/1.1\r\n" + HOST, *(b"X: " + b"a" * 8000 for _ in range(500))]
    assert statuses(answered(port, *pieces)) == [400]


def test_chunks_with_endless_extensions_are_cut_off(hub: LoopbackHub, port: int) -> None:
    head = (
        b"POST /v1/resolve HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1;"
    )
    found = statuses(answered(port, head, *(b"a" * 8000 for _ in range(500))))
    assert found == [400]


def test_clients_that_do_not_read_are_closed(hub: LoopbackHub, listen: Listen) -> None:
    """Together, their responses are larger than a socket's buffers."""
    port = listen(read_seconds=0.3, max_connections=20)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(10)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(get(b"/openapi.json", KEEP) * 60)
        wait_for(lambda: all(map(_is_closed, clients)))
    assert statuses(answered(port, get())) == [200]


def _is_closed(client: socket.socket) -> bool:
    """Whether the service has sent a reset; nothing is read."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE


def test_a_slow_reader_gets_everything(hub: LoopbackHub, listen: Listen) -> None:
    port = listen(read_seconds=1.0)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.connect(("127.0.0.1", port))
        client.sendall(get(b"/openapi.json", KEEP) * 59 + get(b"/openapi.json", CLOSE))
        found = 0
        while piece := client.recv(32_768):
            found += piece.count(b"HTTP/1.1 200")
            time.sleep(0.005)
    assert found == 60


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_learns_nothing_and_causes_nothing(
    hub: LoopbackHub, port: int, site: str
) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    from_page = f"Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: no-cors\r\n".encode()
    embedded = f"Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: navigate\r\n".encode()
    for target in (b"/v1/cache/Org/Open", b"/v1/resolve?name=Org/Open", b"/?name=Org/Open"):
        for lines in (
            from_page + b"Sec-Fetch-Dest: image\r\n",
            embedded + b"Sec-Fetch-Dest: object\r\n",
            embedded + b"Sec-Fetch-Dest: iframe\r\n",
        ):
            assert statuses(answered(port, get(target, lines, CLOSE))) == [403]
    link = embedded + b"Sec-Fetch-Dest: document\r\n"
    assert statuses(answered(port, get(b"/?name=Org/Open", link, CLOSE))) == [200]
    assert hub.count() == 0
    own = b"Sec-Fetch-Site: same-origin\r\n"
    assert statuses(answered(port, get(b"/v1/resolve?name=Org/Open", own, CLOSE))) == [200]


def test_browsers_that_do_not_say_the_site_keep_responses_from_other_sites(
    hub: LoopbackHub, port: int
) -> None:
    for target in (b"/v1/cache", b"/v1/nothing", b"/"):
        head = answered(port, get(target, CLOSE)).partition(b"\r\n\r\n")[0].lower()
        assert b"cross-origin-resource-policy: same-origin" in head
        assert b"frame-ancestors 'none'" in head


def test_a_method_that_is_not_allowed_names_all_that_are(hub: LoopbackHub, port: int) -> None:
    for target, allowed in (
        (b"/v1/resolve", b"allow: get, head, post"),
        (b"/v1/cache/actions", b"allow: get, head, post"),
        (b"/v1/catalog/a/b", b"allow: delete, get, head"),
        (b"/v1/lock", b"allow: post"),
    ):
        head = b"PUT " + target + b" HTTP/1.1\r\n" + HOST + CLOSE
        response = answered(port, head + b"Content-Type: application/json\r\n\r\n").lower()
        assert statuses(response.replace(b"http", b"HTTP")) == [405]
        assert allowed in response


def test_nothing_redirects_to_another_scheme(hub: LoopbackHub, port: int) -> None:
    for target in (b"/v1/health/", b"/v1/cache/", b"/v1//health"):
        assert b"location:" not in answered(port, get(target, CLOSE)).lower()
