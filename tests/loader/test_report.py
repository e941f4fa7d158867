"""The report shows what was loaded, and `mdl verify` checks that it is unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mdl
from mdl.cli.entry import run
from mdl.errors import UsageError
from mdl.loader import Report
from mdl.loader.verify import verify_report, verify_target
from tests.hub import LoopbackHub

NAME = "Org/Name"
pytestmark = pytest.mark.usefixtures("hub_env")


@pytest.fixture
def report(hub: LoopbackHub, tiny_model: Callable[..., Path]) -> Report:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    loaded: Report = mdl.load(NAME).report
    return loaded


def test_it_survives_a_round_trip_through_json(report: Report, tmp_path: Path) -> None:
    path = report.save(tmp_path / "report.json")
    again = Report.from_json(json.loads(path.read_text()))
    assert json.loads(json.dumps(again.to_json())) == json.loads(path.read_text())
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".report")] == []


def test_it_shows_what_was_loaded(report: Report, hub: LoopbackHub) -> None:
    head = hub.repos[NAME].head()
    hashes = {file.path: file.hash for file in report.files}
    assert hashes == {name: head.files[name].etag for name in hashes}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(hashes)
    assert report.commit == head.id and report.model_class == "LlamaForCausalLM"
    assert set(report.seconds) >= {"resolve", "fetch", "build", "tokenizer"}
    assert report.versions["mdl"] == mdl.__version__
    assert "Org/Name" in str(report) and "bfloat16" in str(report)


def test_it_contains_no_token(hub: LoopbackHub, tiny_model: Callable[..., Path]) -> None:
    hub.add_user("hf_secret_token", "alice")
    hub.add_repo(NAME, folder=tiny_model("llama"))
    loaded = mdl.load(NAME, token="hf_secret_token")
    assert "hf_secret_token" not in json.dumps(loaded.report.to_json(), default=str)


def test_what_was_loaded_passes_verification(report: Report, tmp_path: Path, capsys: Any) -> None:
    path = report.save(tmp_path / "report.json")
    assert run(["verify", str(path), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["ok"] and len(body["checked"]) == len(report.files) + 2
    assert run(["verify", report.folder]) == 0


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damage_to_each_file_is_found(
    report: Report, tmp_path: Path, name: str, capsys: Any
) -> None:
    path = report.save(tmp_path / "report.json")
    blob = (Path(report.folder) / name).resolve()
    data = blob.read_bytes()
    blob.write_bytes(data.replace(b"a", b"b", 1) if name != "model.safetensors" else
                     data[:-1] + bytes([data[-1] ^ 1]))  # fmt: skip
    assert run(["verify", str(path), "--json"]) == 6
    body = json.loads(capsys.readouterr().out)  # one object, with the error in it
    assert any(name in problem for problem in body["problems"])
    assert (body["ok"], body["error"]["code"]) == (False, "verification_failed")
    assert verify_target(Path(report.folder)).problems


def test_a_deleted_snapshot_names_the_command_that_downloads_it(report: Report) -> None:
    import shutil

    shutil.rmtree(report.folder)
    outcome = verify_report(report)
    assert "mdl pull Org/Name" in outcome.problems[0]


def test_a_lock_file_is_checked_against_the_cache(
    report: Report, tmp_path: Path, capsys: Any
) -> None:
    lock = tmp_path / "mdl.lock"
    assert run(["lock", NAME, "-o", str(lock)]) == 0
    capsys.readouterr()
    assert run(["verify", str(lock), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert any("model.safetensors" in line for line in body["checked"])
    blob = (Path(report.folder) / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    assert run(["verify", str(lock)]) == 6


def test_other_files_are_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    assert run(["verify", str(tmp_path / "x.json")]) == 2
    assert run(["verify", str(tmp_path / "absent.json")]) == 3
    assert run(["verify", ""]) == 2


def test_what_is_saved_names_the_canonical_model(
    hub: LoopbackHub, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    for _ in range(2):  # quantized on load, then read from the local copy
        model, _ = mdl.load(NAME.lower(), load_in_4bit=True)
        assert model.name_or_path == model.config.name_or_path == NAME
        model = mdl.FastLanguageModel.get_peft_model(model, r=4)
        # "auto" would look up the base model's vocabulary on the Hub
        model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == NAME
        assert f"base_model: {NAME}" in (tmp_path / "adapter/README.md").read_text()


def test_saving_creates_its_folder(report: Report, tmp_path: Path) -> None:
    assert report.save(tmp_path / "run" / "first" / "report.json").exists()


def test_an_unwritable_path_is_reported_before_the_load(
    hub: LoopbackHub, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").touch()
    assert run(["load", NAME, "--report", str(tmp_path / "file" / "report.json")]) == 1
    assert "Cannot write" in capsys.readouterr().err
    assert hub.requests == []


@pytest.mark.parametrize("name", ["large.lock", "large.json", "pipe", "pipe.gguf"])
def test_what_cannot_be_a_report_or_a_lock_file_is_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("pipe"):
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(UsageError):
        verify_target(path)
