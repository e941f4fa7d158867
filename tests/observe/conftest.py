"""A machine with a cache of small repositories, and `mdl run` as a user types it."""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cachemgr.builder import CacheBuilder

COMMIT, OTHER = "1" * 40, "2" * 40
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
MIRROR = "unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit"


def weights(fill: bytes = b"\0") -> bytes:
    """A safetensors file with one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + fill * 16


def model(fill: bytes = b"\0", **config: Any) -> dict[str, bytes]:
    body = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **config}
    return {"config.json": json.dumps(body).encode(), "model.safetensors": weights(fill)}


def nf4(fill: bytes) -> dict[str, bytes]:
    return model(fill, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})


class Ran(NamedTuple):
    code: int
    out: str
    err: str
    report: dict[str, Any]

    @property
    def opened(self) -> dict[str, list[str]]:
        """Repository → the paths of its opened files."""
        return {
            load["repo_id"]: [file["path"] for file in load["files"]]
            for load in self.report["loads"]
        }


def take_signals() -> None:
    """Undo what `nohup` or a shell's `&` did to this test run: a shell cannot trap these then."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Machine:
    """A home folder, a cache in it, and the environment of its user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = CacheBuilder(folder / "hf" / "hub")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MDL_"))}
        self.env = {
            **kept,
            "HF_HOME": str(folder / "hf"),
            "MDL_HOME": str(folder / "mdl"),
            "HF_HUB_OFFLINE": "1",
        }

    def add(
        self, repo_id: str, files: Mapping[str, bytes] | None = None, commit: str = COMMIT
    ) -> Path:
        """Put a repository into the cache; the folder of its snapshot."""
        return self.cache.revision(repo_id, commit, files or model(), refs=("main",))

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def popen(self, *args: str, **more: Any) -> "subprocess.Popen[str]":
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL,
                  "preexec_fn": take_signals}  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "mdl", *args],
            **{**silent, "env": self.env, "cwd": self.folder, "text": True, **more},
        )

    def run(self, *args: str, options: tuple[str, ...] = (), stdin: str = "", **env: str) -> Ran:
        """`mdl run OPTIONS -- ARGS`, with a report."""
        path = self.folder / "report.json"
        path.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "mdl", "run", *options, f"--report={path}", "--", *args],
            env={**self.env, **env},
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        report = json.loads(path.read_text()) if path.exists() else {}
        return Ran(done.returncode, done.stdout, done.stderr, report)

    def python(self, code: str, *args: str, options: tuple[str, ...] = (), **env: str) -> Ran:
        return self.run(sys.executable, "-c", code, *args, options=options, **env)


Runs = Callable[..., Ran]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
