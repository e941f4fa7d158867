"""Run the real command in a process of its own, against the loopback Hub."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.hub import LoopbackHub


@dataclass(frozen=True)
class Ran:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def mdl(hub: LoopbackHub, hub_env: dict[str, str]) -> Run:
    def run(*args: str, stdin: str | None = None, **env: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "mdl", *args],
            capture_output=True,
            text=True,
            input=stdin if stdin is not None else "",
            env={**hub_env, **env},
            timeout=120,
        )
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
