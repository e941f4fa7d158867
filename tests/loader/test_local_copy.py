"""Quantize once: the second 4-bit load reads the local copy that the first one saved."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import mdl
from mdl.cachemgr import open_cache
from mdl.cli.entry import run
from mdl.errors import LoadError, VerificationError
from mdl.loader.source import local_copy
from mdl.loader.verify import verify_folder
from mdl.settings import load_settings
from tests.hub import LoopbackHub
from tests.loader import tiny

NAME = "Org/Name"
pytestmark = pytest.mark.usefixtures("hub_env")


@pytest.fixture
def served(hub: LoopbackHub, tiny_model: Callable[..., Path]) -> LoopbackHub:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    return hub


def load(**options: Any) -> Any:
    return mdl.load(NAME, load_in_4bit=True, **options)


def assert_equal_states(ours: Any, theirs: Any) -> None:
    reference = theirs.state_dict()
    assert all(torch.equal(value, reference[key]) for key, value in ours.state_dict().items())


def test_the_second_load_reads_the_local_copy(served: LoopbackHub) -> None:
    first, second = load(), load()
    assert first.report.quantized_on_load and not second.report.quantized_on_load
    assert second.report.folder == first.report.local_copy == second.report.local_copy
    assert_equal_states(second.model, first.model)
    assert second.report.resolution["repo_id"] == NAME


def test_a_local_copy_is_a_plain_checkpoint_with_its_provenance(served: LoopbackHub) -> None:
    loaded = load()
    folder = Path(loaded.report.local_copy)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert_equal_states(theirs, loaded.model)
    assert transformers.AutoTokenizer.from_pretrained(folder)("France").input_ids
    provenance = json.loads((folder / local_copy.PROVENANCE).read_text())
    assert provenance["repo_id"] == NAME
    assert provenance["commit"] == served.repos[NAME].head().id
    assert provenance["made_with"]["bitsandbytes"]
    assert not verify_folder(folder).problems


@pytest.mark.parametrize("name", ["qwen2-vl", "mixtral"])
def test_a_renamed_or_merged_checkpoint_gets_a_local_copy_too(
    hub: LoopbackHub, tiny_model: Callable[..., Path], name: str
) -> None:
    hub.add_repo(NAME, folder=tiny_model(name))
    first, second = load(), load()
    assert first.report.local_copy == second.report.folder
    assert first.report.loaded_by == second.report.loaded_by == "mdl"
    assert_equal_states(second.model, first.model)
    theirs = type(first.model).from_pretrained(first.report.local_copy)
    assert_equal_states(theirs, first.model)


def test_the_cache_manager_lists_it(served: LoopbackHub) -> None:
    loaded = load()
    repo = open_cache(load_settings()).repo(local_copy.local_copy_name(NAME))
    assert [revision.state for revision in repo.revisions] == ["complete"]
    assert repo.size_on_disk > loaded.report.memory["weights"] / 2
    assert repo.problems == ()


def test_an_offline_load_needs_only_the_local_copy(served: LoopbackHub) -> None:
    import shutil

    first = load()
    shutil.rmtree(Path(load_settings().cache_root) / "models--Org--Name")
    second = load(local_files_only=True, revision=first.report.commit)
    assert second.report.local_copy == first.report.local_copy


def test_each_commit_and_setting_gets_its_own(served: LoopbackHub) -> None:
    first = load()
    changed = served.commit(NAME, {**served.files(NAME), "notes.txt": b"v2"})
    second = load(revision=changed)
    third = load(revision=changed, quantization=mdl.loader.Quantization(quant_type="fp4"))
    copies = {loaded.report.local_copy for loaded in (first, second, third)}
    assert len(copies) == 3 and all(loaded.report.quantized_on_load for loaded in (second, third))


def test_it_can_be_switched_off(served: LoopbackHub) -> None:
    for _ in range(2):
        loaded = load(quantize_once=False)
        assert loaded.report.quantized_on_load and loaded.report.local_copy is None
    root = Path(load_settings().cache_root)
    assert not list(root.glob(f"models--{local_copy.OWNER}--*"))


def test_a_disk_too_small_for_it_does_not_fail_the_load(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    load(quantize_once=False)  # so that the model itself is downloaded
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    loaded = load()
    assert loaded.model is not None and loaded.report.local_copy is None
    assert "Not enough disk space" in loaded.report.warnings[0]


def test_a_disk_that_fills_up_while_it_is_saved_leaves_nothing_behind(
    hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> None:
    """A limit on file sizes stands in for the full disk."""
    sizes = {**tiny.SMALL, "vocab_size": 40_000, "tie_word_embeddings": True}
    large = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).to(torch.bfloat16)
    large.save_pretrained(tmp_path / "large")
    hub.add_repo(NAME, folder=tmp_path / "large")
    load(quantize_once=False)
    code = f"""
import resource, signal, mdl
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
report = mdl.load({NAME!r}, load_in_4bit=True).report
assert report.local_copy is None and "Could not save" in report.warnings[0], report.warnings
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub_env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    home = (
        Path(load_settings().cache_root)
        / f"models--{local_copy.local_copy_name(NAME).replace('/', '--')}"
    )
    assert not list(home.rglob("*.safetensors")) and not list(home.glob(".writing-*"))


@pytest.mark.parametrize(
    "step", ["local_copy._save", "local_copy._publish", "catalog.Catalog.record_local_mirror"]
)
def test_a_killed_save_leaves_nothing_half_written_to_find(
    served: LoopbackHub, hub_env: dict[str, str], tmp_path: Path, step: str
) -> None:
    """The process stops right before a step, and is killed there."""
    mark = tmp_path / "writing"
    code = f"""
import pathlib, time
import mdl, mdl.loader.source.local_copy as local_copy, mdl.store.catalog as catalog
def stop(*args):
    pathlib.Path({str(mark)!r}).touch()
    time.sleep(60)
{step} = stop
mdl.load({NAME!r}, load_in_4bit=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], env=hub_env) as process:
        deadline = time.monotonic() + 60
        while not mark.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    home = (
        Path(load_settings().cache_root)
        / f"models--{local_copy.local_copy_name(NAME).replace('/', '--')}"
    )
    assert (home / "snapshots").exists() == (step.startswith("catalog"))
    again = load()
    assert again.report.quantized_on_load == (not step.startswith("catalog"))
    assert again.report.local_copy
    assert load().report.folder == again.report.local_copy


def test_two_processes_at_once_save_one_local_copy(
    served: LoopbackHub, hub_env: dict[str, str]
) -> None:
    code = f"import mdl; print(mdl.load({NAME!r}, load_in_4bit=True).report.local_copy)"
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=hub_env, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    printed = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(printed) == 1 and Path(printed.pop().decode().strip()).is_dir()


@pytest.mark.parametrize("changed", [{"num_labels": 3}, {"use_cache": False}])
def test_a_changed_model_is_not_saved_as_the_repositorys_copy(
    served: LoopbackHub, changed: dict[str, Any]
) -> None:
    """Otherwise every later 4-bit load would get the new head or configuration."""
    first = load(**changed)
    assert first.report.quantized_on_load and first.report.local_copy is None
    plain = load()
    assert plain.report.model_class == "LlamaForCausalLM" and plain.report.quantized_on_load
    assert plain.model.config.use_cache is True
    assert load(**changed).report.folder == plain.report.local_copy


def test_a_damaged_local_copy_names_the_command_that_removes_it(served: LoopbackHub) -> None:
    copy = Path(load().report.local_copy)
    (copy / "model.safetensors").resolve().write_bytes(b"no weights")
    with pytest.raises(VerificationError, match="local 4-bit copy of Org/Name") as raised:
        load()
    command = raised.value.next.split("`")[1].split()
    assert run([*command[1:], "--yes"]) == 0
    assert load().report.quantized_on_load


def test_a_model_without_quantizable_layers_is_rejected(hub: LoopbackHub, tmp_path: Path) -> None:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    transformers.ResNetModel(transformers.ResNetConfig(**sizes)).save_pretrained(tmp_path / "net")
    hub.add_repo(NAME, folder=tmp_path / "net")
    for call in (mdl.load, mdl.plan):
        with pytest.raises(LoadError, match="No layer of ResNetModel can be quantized to 4 bits"):
            call(NAME, load_in_4bit=True)
    assert not list(Path(load_settings().cache_root).glob(f"models--{local_copy.OWNER}--*"))
    assert mdl.load(NAME).report.parameters["quantized"] == 0


def test_a_model_with_another_ones_tokenizer_leaves_no_copy(
    hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> None:
    folder = tiny.save_model("llama", tmp_path / "model")
    table = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = table["model"]["vocab"]
    vocabulary[max(vocabulary, key=lambda word: vocabulary[word])] = 100_000
    (folder / "tokenizer.json").write_text(json.dumps(table))
    hub.add_repo(NAME, folder=folder)
    with pytest.raises(LoadError, match="The tokenizer has ids up to 100000"):
        load()
    assert not list(Path(hub_env["HF_HOME"]).glob("hub/models--mdl-local--*"))
