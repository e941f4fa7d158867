"""mdl as a Hub: a process of its own, its upstream the loopback Hub, clients with own caches."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import LoopbackHub
from tests.service.conftest import Process

Serve = Callable[..., "Between"]
FETCH = """
import hashlib, pathlib
path = pathlib.Path(hf.hf_hub_download({repo!r}, {file!r}, **{more!r}))
print(json.dumps([path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]))
"""


class Between:
    """A running `mdl serve --hub`, and clients that have it as their Hub."""

    def __init__(self, hub: LoopbackHub, home: Path, *options: str, **env: str) -> None:
        self.home = home
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MDL_"))}
        self.env = kept | {
            "HF_HOME": str(home / "hf"),
            "MDL_HOME": str(home / "mdl"),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **env,
        }
        self.start(*options)

    def start(self, *options: str) -> None:
        self.process = Process(self.env, "--hub", "--json", *options)
        self.url = self.process.url

    def log(self) -> list[dict[str, Any]]:
        """The lines of requests that the service has written, once it has ended."""
        lines = self.process.stop()[1].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def cache(self) -> Path:
        """What the service keeps."""
        return Path(self.env["HF_HOME"]) / "hub"

    def client(self, name: str, code: str, token: str | None = None) -> Any:
        """Run Python with huggingface_hub against the service; its printed JSON.

        The client's cache is its own, by `name`; an exception comes back as its class's name and
        its text.
        """
        home = self.home / "clients" / name
        env = self.env | {"HF_HOME": str(home), "HF_ENDPOINT": self.url}
        env |= {"HF_TOKEN": token} if token else {}
        body = "".join(f"    {line}\n" for line in code.strip().splitlines())
        failed = "    print(json.dumps([type(error).__name__, str(error)]))\n"
        start = "import json, huggingface_hub as hf\ntry:\n"
        code = f"{start}{body}except Exception as error:\n{failed}"
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def download(
        self, name: str, repo: str, file: str, token: str | None = None, **more: Any
    ) -> Any:
        """Download one file; `[size, sha256]`, or what went wrong."""
        return self.client(name, FETCH.format(repo=repo, file=file, more=more), token)


@pytest.fixture
def between(hub: LoopbackHub, tmp_path: Path) -> Iterator[Serve]:
    """Start `mdl serve --hub` with these options."""
    running: list[Between] = []

    def run(*options: str, home: str = "service", **env: str) -> Between:
        running.append(Between(hub, tmp_path / home, *options, **env))
        return running[-1]

    yield run
    for each in running:
        each.process.stop()
