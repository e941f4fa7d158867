"""A download that was stopped goes on where it was: only the rest is sent; the hash is right."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import mdl
from mdl.cli.entry import run
from mdl.errors import VerificationError
from mdl.loader.disk import RESERVE
from tests.hub import LoopbackHub
from tests.hub.server import CHUNK
from tests.terminal import TerminalProcess

NAME = "Org/Name"
WEIGHTS = save({"w": torch.rand(2_000_000, generator=torch.Generator().manual_seed(1))})
SHA = hashlib.sha256(WEIGHTS).hexdigest()
STOPPED_AT = 5_000_000
PULL = [sys.executable, "-m", "mdl", "pull", NAME]


@pytest.fixture
def served(hub: LoopbackHub, hub_env: dict[str, str]) -> LoopbackHub:
    hub.add_repo(NAME, files={"config.json": "{}", "model.safetensors": WEIGHTS})
    return hub


def blobs() -> Path:
    return Path(os.environ["HF_HOME"]) / "hub/models--Org--Name/blobs"


def partial() -> Path:
    return blobs() / f"{SHA}.mdl.incomplete"


def leave_partial(data: bytes) -> None:
    blobs().mkdir(parents=True)
    partial().write_bytes(data)


def is_whole(hub: LoopbackHub) -> bool:
    (snapshot,) = (blobs().parent / "snapshots").iterdir()
    (blob,) = [path for path in blobs().iterdir() if path.name.startswith(SHA)]
    name = snapshot / "model.safetensors"
    return name.readlink().name == SHA == blob.name and name.read_bytes() == WEIGHTS


def wait_for(size: int, file: Callable[[], Path] = partial) -> None:
    end = time.monotonic() + 30
    while not file().exists() or file().stat().st_size < size:
        assert time.monotonic() < end


def accept_interrupts() -> None:
    """Undo what a background job of the shell inherits: it ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
def test_a_stopped_pull_goes_on_where_it_was(
    served: LoopbackHub, hub_env: dict[str, str], kill: signal.Signals
) -> None:
    fault = served.fault("/cdn/*", hold_at=STOPPED_AT)
    process = subprocess.Popen(
        PULL, env=hub_env, stderr=subprocess.PIPE, text=True, preexec_fn=accept_interrupts
    )
    assert fault.reached.wait(30)
    wait_for(STOPPED_AT - (1 << 19))
    process.send_signal(kill)
    _, printed = process.communicate(timeout=5)
    if kill is signal.SIGINT:
        assert process.returncode == 130
        assert printed.strip() == (
            "interrupted: what has arrived is kept; run it again to go on from there"
        )
    here = partial().stat().st_size
    served.clear_faults()
    served.sent = 0
    assert run(["pull", NAME]) == 0
    assert served.requests[-1].range == f"bytes={here}-"
    # The first connection's thread, let go, may have sent a piece into the void.
    assert len(WEIGHTS) - here <= served.sent <= len(WEIGHTS) - here + CHUNK
    assert is_whole(served)


def test_a_pull_into_a_folder_goes_on_too(
    served: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    into = ["--local-dir", str(folder)]
    fault = served.fault("/cdn/*", hold_at=STOPPED_AT)
    with subprocess.Popen([*PULL, *into], env=hub_env) as process:
        assert fault.reached.wait(30)
        wait_for(STOPPED_AT - (1 << 19), partial_in(folder))
        process.kill()
    here = partial_in(folder)().stat().st_size
    served.clear_faults()
    served.clear_requests()
    assert run(["pull", NAME, *into]) == 0
    (sent,) = [r for r in served.requests if r.path.startswith("/cdn/")]
    assert sent.range == f"bytes={here}-"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    code = f"import huggingface_hub as h; h.snapshot_download({NAME!r}, local_dir={str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], env=hub_env, check=True)
    assert served.count("/cdn/*", "GET") == 1, "huggingface_hub knows what it is"


def partial_in(folder: Path) -> Callable[[], Path]:
    return lambda: next(iter(folder.rglob("*.mdl.incomplete")), folder / "none")


@pytest.mark.parametrize("into", [[], ["--gguf"]], ids=["model", "stored"])
def test_only_what_is_missing_counts(
    hub: LoopbackHub, hub_env: dict[str, str], into: list[str],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    name = "model-Q4_K_M.gguf" if into else "model.safetensors"
    hub.add_repo(NAME, files={"config.json": "{}", name: WEIGHTS})
    leave_partial(WEIGHTS[:STOPPED_AT])
    missing = len(WEIGHTS) - STOPPED_AT + (0 if into else len("{}"))
    free = missing + RESERVE - 1
    monkeypatch.setattr("mdl.loader.disk.free_space", lambda folder: free)
    assert run(["pull", NAME, *into, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert "3.0 MB to write" in error["message"]
    assert error["why"] == "67.1 MB of the disk must stay free."
    free += 1
    for options in (["--dry-run"], []):
        assert run(["pull", NAME, *into, "--json", *options]) == 0
        pulled = json.loads(capsys.readouterr().out)
        assert (pulled["bytes"], pulled["resumed"]) == (missing, STOPPED_AT)


def test_what_the_cache_has_is_copied_into_a_folder(
    served: LoopbackHub, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    into = ["pull", NAME, "--local-dir", str(tmp_path / "folder"), "--progress"]
    assert run(["pull", NAME]) == 0
    with monkeypatch.context() as small:
        small.setattr("mdl.loader.disk.free_space", lambda folder: len(WEIGHTS))
        assert run(into) == 1, "a copy needs space too"
    assert "or name a --local-dir on another disk." in capfd.readouterr().err
    assert run(into) == 0
    shown = capfd.readouterr()
    assert ": copied 2 files from the cache\n" in shown.out
    assert "100%" in shown.err
    assert (tmp_path / "folder/model.safetensors").read_bytes() == WEIGHTS
    assert served.count("/cdn/*", "GET") == 1


def test_a_damaged_partial_file_is_found_out_and_thrown_away(
    served: LoopbackHub, caplog: pytest.LogCaptureFixture
) -> None:
    leave_partial(random.Random(1).randbytes(STOPPED_AT))
    assert run(["pull", NAME]) == 0
    assert "begun anew" in caplog.text
    assert is_whole(served)


def test_content_that_is_not_what_the_hub_named_gets_no_name(served: LoopbackHub) -> None:
    blob = served.repos[NAME].head().files["model.safetensors"]
    object.__setattr__(blob, "source", WEIGHTS[:-1] + b"\0")
    with pytest.raises(VerificationError, match="Org/Name/model.safetensors"):
        mdl.pull(NAME)
    assert not list(blobs().glob(f"{SHA}*"))


def test_a_hub_that_sends_no_ranges_is_read_from_the_start(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.hub.server.byte_range", lambda first, last, size: (0, size - 1))
    monkeypatch.setattr("tests.hub.server.PARTIAL", 200)
    leave_partial(WEIGHTS[:STOPPED_AT])
    assert run(["pull", NAME]) == 0
    assert is_whole(served)


def test_huggingface_hub_at_the_same_time_downloads_the_file_once(
    served: LoopbackHub, hub_env: dict[str, str]
) -> None:
    """Its lock is ours: whoever comes second waits, and finds the file there."""
    fault = served.fault("/cdn/*", hold_at=STOPPED_AT)
    ours = subprocess.Popen(PULL, env=hub_env)
    assert fault.reached.wait(30)
    code = f"import huggingface_hub as h; h.hf_hub_download({NAME!r}, 'model.safetensors')"
    theirs = subprocess.Popen([sys.executable, "-c", code], env=hub_env)
    while served.count("*/resolve/*/model.safetensors", "HEAD") == 0:
        assert theirs.poll() is None
    fault.release()
    assert [ours.wait(30), theirs.wait(30)] == [0, 0]
    assert served.count("/cdn/*", "GET") == 1
    assert is_whole(served)


def test_a_terminal_shows_speed_and_time_left_and_no_signed_address(
    served: LoopbackHub, hub_env: dict[str, str]
) -> None:
    served.fault("/cdn/*", hold_at=STOPPED_AT)
    with TerminalProcess(PULL, hub_env) as terminal:
        terminal.expect(r"pull Org/Name: +\d+% \|.*\| [45]\.\d MB of 8\.0 MB, ")
        terminal.expect(r"B/s, \d\d:\d\d left")
        terminal.interrupt()
        assert terminal.end(5) == 130
        assert "signature" not in terminal.shown and "Traceback" not in terminal.shown
        assert terminal.shown.count("interrupted: ") == 1


def test_a_rate_limit_is_waited_for_and_said(
    served: LoopbackHub, caplog: pytest.LogCaptureFixture
) -> None:
    served.rate_limit("/cdn/*", retry_after=1)
    assert run(["pull", NAME]) == 0
    assert "waiting 1 s" in caplog.text
    assert is_whole(served)
