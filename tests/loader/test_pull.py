"""`mdl pull` downloads what a model needs, each file once, and loses nothing when it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import mdl
from mdl.cli.entry import run
from mdl.errors import UsageError
from tests.hub import LoopbackHub
from tests.loader import tiny

NAME = "Org/Name"


@pytest.fixture
def served(hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path) -> LoopbackHub:
    """A sharded model on the Hub, among files that loading does not need."""
    folder = tiny.save_model("llama", tmp_path / "model", max_shard_size="100KB")
    for name in ("pytorch_model.bin", "model.gguf", "original/consolidated.pth", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(1000))
    hub.add_repo(NAME, folder=folder)
    return hub


def pull(capsys: Any, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run `mdl pull … --json` in this process; returns its exit code and output."""
    code = run(["pull", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def snapshot(hub: LoopbackHub) -> Path:
    root = Path(os.environ["HF_HOME"]) / "hub/models--Org--Name"
    return root / "snapshots" / hub.repos[NAME].head().id


def files_under(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_only_what_a_model_needs_is_downloaded(served: LoopbackHub, capsys: Any) -> None:
    code, body = pull(capsys, NAME)
    assert code == 0 and body["done"] and body["path"] == str(snapshot(served))
    have = files_under(snapshot(served))
    assert "config.json" in have and "model.safetensors.index.json" in have
    assert not [name for name in have if name.endswith((".bin", ".gguf", ".pth", ".onnx"))]
    refs = snapshot(served).parent.parent / "refs/main"
    assert refs.read_text() == served.repos[NAME].head().id


def test_what_is_left_out_is_said_and_all_files_takes_it(
    served: LoopbackHub, capsys: Any, tmp_path: Path
) -> None:
    assert run(["pull", NAME, "--dry-run"]) == 0
    others = ["model.gguf", "onnx/model.onnx", "original/consolidated.pth", "pytorch_model.bin"]
    assert f"left out 4 files: {', '.join(others[:3])}, … (--all-files" in capsys.readouterr().out
    assert pull(capsys, NAME)[1]["left_out"] == others
    code, body = pull(capsys, NAME, "--all-files")
    assert (code, sorted(body["files"]), body["left_out"]) == (0, others, [])
    assert set(files_under(snapshot(served))) == set(served.files(NAME))
    assert mdl.pull(NAME, all_files=True).path == snapshot(served)
    with pytest.raises(UsageError, match="all_files or include"):
        mdl.pull(NAME, all_files=True, include="*.json")


def test_a_dry_run_shows_the_size_and_downloads_nothing(served: LoopbackHub, capsys: Any) -> None:
    code, body = pull(capsys, NAME, "--dry-run")
    assert code == 0 and not body["done"]
    assert served.count("*/resolve/*.safetensors") == 0
    _, done = pull(capsys, NAME)
    fetched = sum(len(data) for data in files_under(snapshot(served)).values())
    assert body["bytes"] == done["bytes"] == fetched


def test_a_second_pull_downloads_nothing(served: LoopbackHub, capsys: Any) -> None:
    pull(capsys, NAME)
    served.clear_requests()
    code, body = pull(capsys, NAME.lower())
    assert (code, body["bytes"]) == (0, 0)
    assert served.count("*/resolve/*") == 0


def test_a_commit_in_the_cache_gets_a_ref_when_pulled_by_name(
    served: LoopbackHub, capsys: Any
) -> None:
    """Offline, transformers reads refs/main."""
    commit = served.repos[NAME].head().id
    ref = snapshot(served).parent.parent / "refs/main"
    assert pull(capsys, NAME, "--revision", commit)[0] == 0
    assert not ref.exists()
    served.clear_requests()
    assert pull(capsys, NAME)[0] == 0
    assert ref.read_text() == commit
    assert served.count("*/resolve/*") == 0
    ref.write_text("0" * 40)
    pull(capsys, NAME, "--offline")  # what was true earlier moves no ref
    assert ref.read_text() == "0" * 40
    assert pull(capsys, NAME)[0] == 0
    assert ref.read_text() == commit


def test_a_broken_connection_is_retried(served: LoopbackHub, capsys: Any) -> None:
    served.fault("/cdn/*", cut_at=500, reset=True)
    served.fault("/cdn/*", status=503)
    assert pull(capsys, NAME)[0] == 0


@pytest.mark.straight
def test_complete_files_are_kept_when_the_hub_fails(served: LoopbackHub, capsys: Any) -> None:
    last = [name for name in sorted(served.files(NAME)) if name.startswith("model-")][-1]
    blob = served.repos[NAME].head().files[last]
    served.fault(f"/cdn/{blob.sha256}", status=500, times=None)
    code, body = pull(capsys, NAME)
    assert code == 1 and "500" in body["error"]["message"]
    before = files_under(snapshot(served).parent.parent / "blobs")
    assert before
    served.clear_faults()
    served.clear_requests()
    assert pull(capsys, NAME)[0] == 0
    after = files_under(snapshot(served).parent.parent / "blobs")
    assert before.items() <= after.items()
    assert served.count("/cdn/*", "GET") < len(list(snapshot(served).glob("*.safetensors")))


def test_concurrent_pulls_download_each_file_once(
    served: LoopbackHub, hub_env: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "mdl", "pull", NAME]
    running = [
        subprocess.Popen(command, env=hub_env, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    output = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], output
    shards = len(list(snapshot(served).glob("*.safetensors")))
    assert served.count("/cdn/*", "GET") == shards


def test_a_full_disk_is_reported_before_downloading(
    served: LoopbackHub, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, body = pull(capsys, NAME)
    assert code == 1 and body["error"]["code"] == "disk"
    assert "prune" in body["error"]["next"]
    assert served.count("*/resolve/*.safetensors") == 0


@pytest.mark.straight
def test_a_disk_that_fills_up_loses_nothing(
    hub: LoopbackHub, hub_env: dict[str, str], capsys: Any
) -> None:
    """A limit on file sizes stands in for the full disk: a write fails halfway."""
    weights = save({"w": torch.zeros(2_000_000)})
    hub.add_repo(NAME, files={"config.json": "{}", "model.safetensors": weights})
    limited = (
        "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4000000,)*2)"
    )
    limited += "; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    limited += f"; sys.argv[1:] = ['pull', {NAME!r}]; from mdl.cli.entry import main; main()"
    command = [sys.executable, "-c", limited]
    done = subprocess.run(command, env=hub_env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: The disk filled up"), done.stderr
    assert (snapshot(hub) / "config.json").exists()
    hub.sent = 0
    assert pull(capsys, NAME)[0] == 0
    assert hub.sent == len(weights) - 4_000_000, "it goes on from what was written"
    assert (snapshot(hub) / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_repair_downloads_damaged_files_again(
    served: LoopbackHub, capsys: Any, damage: str
) -> None:
    pull(capsys, NAME)
    shard = sorted(snapshot(served).glob("*.safetensors"))[0]
    good = shard.read_bytes()
    bad = {"truncated": good[:-10], "flipped": good[:-1] + bytes([good[-1] ^ 1])}
    if damage == "missing":
        shard.resolve().unlink()
    else:
        shard.resolve().write_bytes(bad[damage])
    code, body = pull(capsys, NAME, "--repair")
    assert code == 0 and shard.read_bytes() == good
    if damage != "missing":
        assert body["repaired"] == [shard.name]


def test_offline_and_not_in_the_cache(served: LoopbackHub, capsys: Any) -> None:
    code, body = pull(capsys, NAME, "--offline")
    assert (code, body["error"]["code"]) == (5, "offline")
    assert served.requests == []


def test_offline_a_damaged_snapshot_is_one_clear_error(
    served: LoopbackHub, capsys: Any, tiny_model: Callable[..., Path]
) -> None:
    pull(capsys, NAME)
    shard = sorted(snapshot(served).glob("*.safetensors"))[0]
    shard.resolve().write_bytes(shard.read_bytes()[:-10])
    code, body = pull(capsys, NAME, "--offline")
    assert (code, body["error"]["code"]) == (6, "verification_failed")
    assert "--repair" in body["error"]["next"]
