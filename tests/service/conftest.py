"""The service in this process, with all its middleware, and as a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mdl.service.app import create_app
from mdl.service.config import ServiceConfig
from mdl.service.state import Service
from mdl.settings import load_settings

READ, ADMIN = "read-token-0123456789", "admin-token-0123456789"
Start = Callable[..., TestClient]


@pytest.fixture
def start(hub_env: dict[str, str]) -> Iterator[Start]:
    """Start the service with these settings; `.service` is its state."""
    with contextlib.ExitStack() as stack:

        def run(base_url: str = "http://127.0.0.1", **config: Any) -> TestClient:
            service = Service(load_settings(), ServiceConfig(log_requests=False, **config))
            app = create_app(service)
            client = TestClient(app, base_url=base_url, raise_server_exceptions=False)
            client.service = service  # type: ignore[attr-defined]
            return stack.enter_context(client)

        yield run


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Process:
    """`mdl serve` as a user starts it, on a free port."""

    def __init__(self, env: dict[str, str], *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mdl", "serve", "--port", "0", *options],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http" in line, self.process.communicate()[1]
        url = json.loads(line)["url"] if "--json" in options else line.split()[-1]
        self.url = url.rstrip("/")
        self.port = int(self.url.rpartition(":")[2])

    def stop(self) -> tuple[int, str]:
        """(exit code, standard error) after SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@pytest.fixture
def serve(hub_env: dict[str, str]) -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def run(*options: str, **env: str) -> Process:
        running.append(Process({**os.environ, **env}, *options))
        return running[-1]

    yield run
    for one in running:
        one.stop()


def cached_repo(root: Path, name: str, files: dict[str, bytes], commit: str = "a" * 40) -> Path:
    """A repository as huggingface_hub leaves it in a cache."""
    import hashlib

    folder = root / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for sub in (folder / "blobs", folder / "refs", snapshot):
        sub.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    for path, data in files.items():
        blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / path).symlink_to(f"../../blobs/{blob.name}")
    return folder


def body_of(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.content)
    return found
