"""A Hub that means harm: its responses have no end, name other hosts, or are not what they say."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mdl.errors import OfflineError
from mdl.resolver import HubApi

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that responds as the function does; returns its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(respond: Callable[[BaseHTTPRequestHandler], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    respond(self)
                except ConnectionError:
                    pass  # the client has had enough

            def log_message(self, format: str, *args: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(request: BaseHTTPRequestHandler, body: object, **headers: str) -> None:
    data = json.dumps(body).encode()
    request.send_response(200)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(data)


def test_the_token_does_not_follow_a_next_page_to_another_host(serve: Serve) -> None:
    tokens: list[str | None] = []

    def elsewhere(request: BaseHTTPRequestHandler) -> None:
        tokens.append(request.headers["Authorization"])
        send(request, [])

    other = serve(elsewhere)
    hub = serve(lambda request: send(request, [], Link=f'<{other}/api/models>; rel="next"'))
    list(HubApi(hub, "hf_secret").by_author("org"))
    assert tokens == [None]


def test_a_response_that_drips_is_given_up(serve: Serve) -> None:
    stop = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not stop.wait(0.05):
            request.wfile.write(b" ")

    with pytest.raises(OfflineError, match="took longer"):
        HubApi(serve(drip), None, timeout=0.1).facts("org/name")
    stop.set()


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: "])
def test_a_head_that_drips_is_given_up(serve: Serve, start: bytes) -> None:
    stop = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(start)
        while not stop.wait(0.05):
            request.wfile.write(b"X")

    with pytest.raises(OfflineError, match="took longer"):
        HubApi(serve(drip), None, timeout=0.1).facts("org/name")
    stop.set()


def test_a_response_without_end_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdl.resolver.hub_session._LARGEST", 1 << 20)

    def pour(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(b" " * (1 << 20))

    with pytest.raises(OfflineError, match="more than"):
        HubApi(serve(pour), None).facts("org/name")


def test_a_compressed_response_is_not_unpacked(serve: Serve) -> None:
    hub = serve(lambda request: send(request, {}, **{"Content-Encoding": "gzip"}))
    with pytest.raises(OfflineError, match="compressed"):
        HubApi(hub, None).facts("org/name")


def test_a_commit_that_is_a_path_is_refused(serve: Serve) -> None:
    hub = serve(lambda request: send(request, {"id": "org/name", "sha": "../../../x"}))
    with pytest.raises(OfflineError, match="commit"):
        HubApi(hub, None).facts("org/name")
