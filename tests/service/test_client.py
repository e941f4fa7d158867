"""MDL_SERVER: the service answers, this machine's cache stays this machine's, and what if not."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mdl
from mdl import local_resolver as ask
from mdl.errors import ConfigError, NoAccessError, NotFoundError
from mdl.resolver.remote import RemoteClient
from tests.hub import LoopbackHub
from tests.hub.hub import free_port
from tests.service.conftest import READ, Process, cached_repo

MIRROR = "unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit"
Serve = Callable[..., Process]


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """The resolver that `mdl.resolve` keeps, and its connection, end with each test."""
    yield
    held = getattr(ask._kept, "held", None)
    if held is not None:
        held[1].close()
        del ask._kept.held


@pytest.fixture
def team(hub: LoopbackHub, serve: Serve, tmp_path: Path) -> Iterator[Process]:
    """A service with a home and a cache of its own, as on another machine."""
    hub.add_user("hf_alice_token", "alice")
    for name in ("Org/Open", "unsloth/Llama-3.2-1B-Instruct", MIRROR):
        hub.add_repo(name, files={"config.json": "{}"})
    hub.add_repo("Org/Gated", files={"config.json": "{}"}, gated="manual",
                 access={"hf_alice_token": "granted"})  # fmt: skip
    yield serve(MDL_HOME=str(tmp_path / "team"), HF_HUB_CACHE=str(tmp_path / "team-hub"))


def test_the_service_answers_and_the_hub_is_not_asked_from_here(
    hub: LoopbackHub, team: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDL_SERVER", team.url)
    monkeypatch.setattr("mdl.resolver.hub_api.HubApi._ask", None)
    answer = mdl.resolve("unsloth/llama-3.2-1b-instruct", format="bnb-4bit")
    assert answer.repo_id == MIRROR
    assert answer.trace


def test_what_is_cached_is_what_is_cached_here(
    hub: LoopbackHub, team: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDL_SERVER", team.url)
    commit = hub.repos["Org/Open"].refs["refs/heads/main"]
    cached_repo(tmp_path / "team-hub", "Org/Open", {"config.json": b"{}"}, commit)
    assert mdl.resolve("Org/Open").cached is None
    cached_repo(tmp_path / "hf" / "hub", "org/open", {"config.json": b"{}"}, commit)
    here = mdl.resolve("Org/Open").cached
    assert here is not None
    assert here.path is not None
    assert here.path.startswith(str(tmp_path / "hf"))


def test_the_callers_own_token_decides(
    hub: LoopbackHub, team: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDL_SERVER", team.url)
    assert mdl.resolve("Org/Gated", exact=True, token="hf_alice_token").access == "granted"
    with pytest.raises(NoAccessError):
        mdl.resolve("Org/Gated", exact=True, token=False)
    with pytest.raises(NotFoundError):
        mdl.resolve("Org/Nothing")


@pytest.mark.parametrize("how", ["nobody", "silent", "not a service"])
def test_a_service_that_does_not_answer_is_announced_and_answered_for_here(
    hub: LoopbackHub,
    hub_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    hub.add_repo("Org/Open", files={"config.json": "{}"})
    monkeypatch.setattr("mdl.resolver.remote._TIMEOUT", 0.3)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1] if how != "nobody" else free_port()
        listener.listen(8)
        if how == "not a service":
            threading.Thread(target=_babble, args=(listener,), daemon=True).start()
        monkeypatch.setenv("MDL_SERVER", f"http://127.0.0.1:{port}")
        start = time.monotonic()
        with caplog.at_level(logging.WARNING, "mdl"):
            assert mdl.resolve("org/open").repo_id == "Org/Open"
            assert mdl.resolve("org/open").repo_id == "Org/Open"
        assert time.monotonic() - start < 3
    assert caplog.text.count("Resolving locally") == 1


def _babble(listener: socket.socket) -> None:
    try:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    except OSError:
        return


def test_offline_opens_no_socket_to_it(
    hub_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDL_SERVER", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("http.client.HTTPConnection.connect", None)
    assert mdl.resolve("unsloth/Llama-3.2-1B-Instruct", format="bnb-4bit", offline=True)


def test_the_commands_answer_is_the_same_with_and_without(hub: LoopbackHub, team: Process) -> None:
    def listed(**env: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "mdl", "resolve", "--stdin", "--4bit"],
            input="unsloth/llama-3.2-1b-instruct\n../etc\norg/open\nOrg/Nothing\n",
            capture_output=True, text=True, env={**os.environ, **env},
        )  # fmt: skip
        return [{**json.loads(line), "knowledge_age": 0} for line in done.stdout.splitlines()]

    assert listed(MDL_SERVER=team.url) == listed()


def test_a_hub_token_does_not_travel_over_a_plain_connection() -> None:
    plain = RemoteClient("http://mdl.example:8642", READ, "hf_secret")
    assert "X-Hub-Token" not in plain._headers
    for url in ("https://mdl.example", "http://127.0.0.1:1", "http://[::1]:1"):
        assert RemoteClient(url, None, "hf_secret")._headers["X-Hub-Token"] == "hf_secret"


@pytest.mark.parametrize("url", ["mdl.example:80", "ftp://x", "http://", "http://x:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        RemoteClient(url, None, None)
