"""A saved adapter, loaded by folder or name: its base model with the adapter attached."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mdl
from mdl import FastLanguageModel
from mdl.cli.entry import run
from mdl.errors import LoadError, NotFoundError, OfflineError
from mdl.loader.disk import RESERVE
from mdl.loader.verify import verify_report
from tests.hub import LoopbackHub

NAME = "Org/Name"
IDS = torch.tensor([[1, 5, 9, 11, 40, 7, 8, 2]])
pytestmark = [
    pytest.mark.usefixtures("hub_env"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT's own
]


@pytest.fixture
def served(hub: LoopbackHub, tiny_model: Callable[..., Path]) -> LoopbackHub:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    return hub


def save_adapter(folder: Path, base: str = NAME, **options: Any) -> torch.Tensor:
    """Change a new adapter's weights and save it with its tokenizer; returns the model's logits."""
    model, tokenizer = FastLanguageModel.from_pretrained(base, **options)
    model = FastLanguageModel.get_peft_model(model, r=4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.02 * torch.ones_like(weight))
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    return logits(model)


def logits(model: Any) -> torch.Tensor:
    FastLanguageModel.for_inference(model)
    with torch.inference_mode():
        result: torch.Tensor = model(IDS).logits
    return result


@pytest.mark.parametrize("in_4bit", [True, False], ids=["qlora", "lora"])
def test_loading_restores_the_trained_model(
    served: LoopbackHub, tmp_path: Path, in_4bit: bool
) -> None:
    folder = tmp_path / "lora"
    trained = save_adapter(folder, load_in_4bit=in_4bit)
    loaded = FastLanguageModel.from_pretrained(str(folder), load_in_4bit=in_4bit)
    assert torch.equal(logits(loaded.model), trained)
    assert loaded.tokenizer.name_or_path == str(folder)
    trainable = [name for name, weight in loaded.model.named_parameters() if weight.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)
    report = loaded.report
    assert report.requested["name"] == str(folder)
    assert report.resolution["canonical"] == NAME
    assert report.adapter is not None and report.adapter["folder"] == str(folder)
    assert "with adapter" in str(report)
    loaded.model.save_pretrained(tmp_path / "again", save_embedding_layers=False)
    config = json.loads((tmp_path / "again/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == NAME


def test_verifying_its_report_checks_the_adapter(served: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    save_adapter(folder, load_in_4bit=False)
    report = mdl.load(str(folder)).report
    read_again = type(report).from_json(json.loads(json.dumps(report.to_json(), default=str)))
    assert verify_report(read_again).problems == ()
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert verify_report(read_again).problems == ("the adapter's adapter_model.safetensors",)


def test_plan_and_pull_follow_it_to_its_base(
    served: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "lora"
    save_adapter(folder, load_in_4bit=False)
    shutil.rmtree(tmp_path / "hf", ignore_errors=True)
    assert mdl.plan(str(folder)).repo_id == NAME
    capsys.readouterr()
    assert run(["pull", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repo_id"] == NAME


def test_the_base_is_loaded_at_the_revision_it_was_trained_on(
    served: LoopbackHub, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "lora"
    save_adapter(folder, load_in_4bit=False)
    before = served.repos[NAME].head().id
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "revision": before}))
    changed = tmp_path / "changed"
    shutil.copytree(tiny_model("llama"), changed)
    (changed / "README.md").write_text("A new commit.")
    served.add_repo(NAME, folder=changed)
    assert served.repos[NAME].head().id != before
    assert mdl.load(str(folder)).report.commit == before


@pytest.fixture
def shared(served: LoopbackHub, tmp_path: Path) -> torch.Tensor:
    """An adapter repository, Me/lora; returns the trained model's logits."""
    trained = save_adapter(tmp_path / "published", load_in_4bit=False)
    served.add_repo("Me/lora", folder=tmp_path / "published")
    return trained


def test_an_adapter_repository_is_loaded_by_name_in_any_casing(
    served: LoopbackHub, shared: torch.Tensor
) -> None:
    loaded = mdl.load("me/LoRA")
    assert torch.equal(logits(loaded.model), shared)
    report = loaded.report
    assert report.requested["name"] == "me/LoRA" and report.repo_id == NAME
    assert report.adapter is not None
    assert report.adapter["repo_id"] == "Me/lora"
    assert report.adapter["commit"] == served.repos["Me/lora"].head().id
    assert f"Me/lora @ {report.adapter['commit'][:12]}" in str(report)
    assert loaded.tokenizer.name_or_path == report.adapter["folder"]
    assert verify_report(report).problems == ()
    served.clear_requests()
    again = mdl.load("Me/Lora", local_files_only=True)
    assert torch.equal(logits(again.model), shared)
    assert served.requests == []


def test_a_plan_does_not_download_it_and_a_pull_does_with_its_base(
    served: LoopbackHub,
    shared: torch.Tensor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(tmp_path / "hf")
    plan = mdl.plan("me/lora")
    assert plan.repo_id == NAME and plan.adapter is not None
    assert plan.adapter["folder"] is None and plan.adapter["download_bytes"] > 0
    assert "Me/lora" in str(plan) and " to download" in str(plan)
    assert "sha256" not in plan.adapter
    small = dataclasses.replace(plan, download_bytes=0, disk_free=RESERVE)
    assert small.disk_short == plan.adapter["download_bytes"] and not small.fits
    assert not list(tmp_path.glob("hf/hub/models--*lora*"))
    capsys.readouterr()
    assert run(["pull", "me/lora", "--json"]) == 0
    pulled = json.loads(capsys.readouterr().out)
    assert pulled["repo_id"] == NAME
    folder = Path(pulled["adapter"]["folder"])
    assert (folder / "adapter_model.safetensors").exists()
    served.clear_requests()
    assert torch.equal(logits(mdl.load("me/lora", local_files_only=True).model), shared)


def test_a_lock_file_needs_both_the_adapter_and_its_base(
    served: LoopbackHub, shared: torch.Tensor, tmp_path: Path
) -> None:
    lock = str(tmp_path / "mdl.lock")
    assert run(["lock", "Me/lora", "-o", lock]) == 0
    with pytest.raises(NotFoundError, match=f"{NAME} is not in"):
        mdl.load("Me/lora", locked=lock)
    assert run(["lock", NAME, "-o", lock, "--add"]) == 0
    assert torch.equal(logits(mdl.load("Me/lora", locked=lock).model), shared)


def test_an_incomplete_adapter_is_completed(served: LoopbackHub, shared: torch.Tensor) -> None:
    folder = Path(str((mdl.load("me/lora").report.adapter or {})["folder"]))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(OfflineError, match="not completely in the cache"):
        mdl.load("me/lora", local_files_only=True)
    assert torch.equal(logits(mdl.load("me/lora").model), shared)


def test_an_adapter_for_an_adapter_is_rejected(
    served: LoopbackHub, shared: torch.Tensor, tmp_path: Path
) -> None:
    for base in ("Me/lora", str(tmp_path / "own")):
        files = {"adapter_config.json": json.dumps({"base_model_name_or_path": base}).encode(),
                 "adapter_model.safetensors": b""}  # fmt: skip
        (tmp_path / "own").mkdir(exist_ok=True)
        for name, data in files.items():
            (tmp_path / "own" / name).write_bytes(data)
        with pytest.raises(LoadError, match="adapter") as raised:
            mdl.load(str(tmp_path / "own"))
        assert raised.value.next


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no base", "does not name its base model"),
        ("no weights", "but no weights"),
        ("pickle", "can run arbitrary code"),
        ("another base", "does not fit"),
        ("half of it", "does not fit"),
        ("a deeper base", "does not fit"),
    ],
)
def test_what_cannot_be_attached_is_rejected(
    served: LoopbackHub,
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    damage: str,
    message: str,
) -> None:
    folder = tmp_path / "lora"
    save_adapter(folder, load_in_4bit=False)
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    table = json.loads(config.read_text())
    if damage == "no base":
        config.write_text(json.dumps({**table, "base_model_name_or_path": None}))
    elif damage == "no weights":
        weights.unlink()
    elif damage == "pickle":
        weights.rename(folder / "adapter_model.bin")
    elif damage == "half of it":
        kept = {k: v for k, v in load_file(weights).items() if "q_proj" not in k}
        save_file(kept, weights)
    elif damage == "a deeper base":
        more = {k.replace("layers.0", "layers.9"): v for k, v in load_file(weights).items()}
        save_file(load_file(weights) | more, weights)
    else:
        served.add_repo("Org/Other", folder=tiny_model("qwen2"))
        config.write_text(json.dumps({**table, "base_model_name_or_path": "Org/Other", "r": 8}))
    with pytest.raises(LoadError, match=message) as raised:
        mdl.load(str(folder))
    assert raised.value.next
