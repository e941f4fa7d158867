"""A script written for Unsloth runs after changing one import, and gets what it asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import mdl
from mdl import FastLanguageModel, FastVisionModel
from mdl.errors import (
    LoadError,
    MdlError,
    NoAccessError,
    NotFoundError,
    OfflineError,
    UsageError,
    VerificationError,
)
from mdl.loader import Quantization
from mdl.loader.generate import reply_to
from tests.hub import LoopbackHub
from tests.loader import tiny

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
QWEN = "Qwen/Qwen2-VL-7B-Instruct"
pytestmark = pytest.mark.usefixtures("hub_env")


@pytest.fixture
def granted(hub: LoopbackHub, tiny_model: Callable[..., Path], monkeypatch) -> LoopbackHub:
    """The gated Llama on the Hub, and a token in the environment with access to it."""
    hub.add_user("hf_granted", "gina")
    hub.add_repo(
        LLAMA, folder=tiny_model("llama"), gated="manual", access={"hf_granted": "granted"}
    )
    monkeypatch.setenv("HF_TOKEN", "hf_granted")
    return hub


def test_loads_an_exact_gated_model(granted: LoopbackHub, tiny_model: Callable[..., Path]) -> None:
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name="meta-llama/Llama-3.1-8B-Instruct", max_seq_length=9590,
        dtype=torch.bfloat16, load_in_4bit=False, use_exact_model_name=True)  # fmt: skip
    theirs = transformers.LlamaForCausalLM.from_pretrained(tiny_model("llama"), dtype="auto")
    ours = model.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.state_dict().items())
    assert tokenizer("France").input_ids
    report = model.mdl_report
    assert (report.repo_id, report.commit) == (LLAMA, granted.repos[LLAMA].head().id)
    assert report.resolution["substituted"] is False
    assert model.max_seq_length == 9590


def test_loads_a_vision_model(hub: LoopbackHub, tmp_path: Path) -> None:
    tiny.add_qwen_processor(tiny.save_model("qwen2-vl", tmp_path / "vl"))
    hub.add_repo(QWEN, folder=tmp_path / "vl")
    model, tokenizer = FastVisionModel.from_pretrained(
        "Qwen/Qwen2-VL-7B-Instruct", use_exact_model_name=True)  # fmt: skip
    assert type(model).__name__ == "Qwen2VLForConditionalGeneration"
    report = model.mdl_report
    assert report.resolution["quantize_on_load"] and report.parameters["quantized"] > 0
    text = "<|vision_start|><|image_pad|><|vision_end|>What is this?"
    inputs = tokenizer(text=[text], images=[Image.new("RGB", (56, 56))], return_tensors="pt")
    assert torch.isfinite(model(**inputs).logits).all()


def test_a_second_exact_load_makes_at_most_one_request(granted: LoopbackHub) -> None:
    first = mdl.load(LLAMA, use_exact_model_name=True)
    assert first.report.downloaded > 0
    granted.clear_requests()
    second = mdl.load(LLAMA.lower(), use_exact_model_name=True)
    assert second.report.downloaded == 0
    assert second.report.repo_id == LLAMA
    assert len(granted.requests) <= 1
    granted.clear_requests()
    pinned = mdl.load(LLAMA, use_exact_model_name=True, revision=first.report.commit)
    assert pinned.report.commit == first.report.commit
    assert granted.requests == []


def test_an_offline_load_opens_no_socket(granted: LoopbackHub, monkeypatch) -> None:
    mdl.load(LLAMA, use_exact_model_name=True)
    granted.clear_requests()
    model, _ = mdl.load(LLAMA.upper(), use_exact_model_name=True, local_files_only=True)
    assert model.mdl_report.downloaded == 0
    assert granted.requests == []
    with pytest.raises(OfflineError):
        mdl.load("Org/Never-Seen", local_files_only=True)


def test_a_new_commit_is_loaded_and_the_old_one_kept(granted: LoopbackHub) -> None:
    first = mdl.load(LLAMA, use_exact_model_name=True).report
    changed = granted.commit(LLAMA, {**granted.files(LLAMA), "notes.txt": b"v2"})
    assert mdl.load(LLAMA, use_exact_model_name=True, revision=changed).report.commit == changed
    assert Path(first.folder).is_dir()


def test_a_gated_model_without_access_downloads_nothing(
    hub: LoopbackHub, tiny_model: Callable[..., Path], monkeypatch
) -> None:
    hub.add_user("hf_nobody", "nora")
    hub.add_repo(LLAMA, folder=tiny_model("llama"), gated="manual")
    hub.add_repo("unsloth/Llama-3.1-8B-Instruct", files={"config.json": "{}"})
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    with pytest.raises(NoAccessError) as raised:
        mdl.load(LLAMA, use_exact_model_name=True)
    assert "unsloth/" in str(raised.value)  # the ungated mirror is named
    assert hub.count("*/resolve/*") == 0


def test_a_local_folder_takes_precedence_over_the_hub(
    hub: LoopbackHub, tiny_model: Callable[..., Path]
) -> None:
    loaded = mdl.load(str(tiny_model("llama")))
    assert loaded.report.folder == str(tiny_model("llama"))
    assert hub.requests == []


def test_an_unknown_name_is_not_found(hub: LoopbackHub) -> None:
    with pytest.raises(NotFoundError):
        mdl.load("Org/Missing")


def test_a_repository_without_a_model_is_rejected(hub: LoopbackHub) -> None:
    hub.add_repo("Org/Data", files={"README.md": "# data", "train.csv": "a,b"})
    with pytest.raises(LoadError, match="not a model"):
        mdl.load("Org/Data")


def test_pickles_are_rejected_unless_allowed(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tiny.save_model("llama", tmp_path / "m")
    state = transformers.LlamaForCausalLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    hub.add_repo("Org/Pickled", folder=folder)
    with pytest.raises(LoadError, match="pickle"):
        mdl.load("Org/Pickled")
    assert hub.count("*pytorch_model.bin") == 0
    allowed = mdl.load("Org/Pickled", allow_pickle=True)
    assert allowed.report.pickles and allowed.report.fingerprint is None


def test_remote_code_is_off_by_default(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tiny.save_model("llama", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["MyModel"], "auto_map": {"AutoModelForCausalLM": "my.MyModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "my.py").write_text("raise SystemExit('executed')")
    hub.add_repo("Org/Code", folder=folder)
    with pytest.raises(LoadError, match="Python code from its repository"):
        mdl.load("Org/Code")
    assert hub.count("*my.py") == 0


def test_remote_code_needs_a_pinned_commit(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tiny.save_model("llama", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "architectures": ["Mine"],
        "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Mine(LlamaConfig):\n    model_type = 'mine'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Mine\n"
    )
    hub.add_repo("Org/Code", folder=folder)
    with pytest.raises(LoadError, match="for a pinned commit") as raised:
        mdl.load("Org/Code", trust_remote_code=True)
    commit = hub.repos["Org/Code"].head().id
    assert commit in raised.value.next
    loaded = mdl.load("Org/Code", trust_remote_code=True, revision=commit)
    assert type(loaded.model).__name__ == "Model" and loaded.report.remote_code
    assert (loaded.report.loaded_by, loaded.report.note) == ("transformers", "remote code")


def test_unknown_and_contradictory_arguments_are_rejected_by_name() -> None:
    with pytest.raises(UsageError, match="max_lenght"):
        mdl.load("Org/Name", max_lenght=5)
    with pytest.raises(UsageError, match="bnb-4bit, 8bit"):
        mdl.load("Org/Name", load_in_4bit=True, load_in_8bit=True)
    with pytest.raises(UsageError, match="fast_inference"):
        FastLanguageModel.from_pretrained("Org/Name", fast_inference=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "Cannot load in dtype"),
        ({"max_seq_length": "2048"}, "not a number of tokens"),
        ({"max_seq_length": 0}, "not a number of tokens"),
        ({"task": "audio"}, "Unknown task"),
        ({"device_map": "gpu"}, "'gpu' is not a device"),
        ({"device_map": {"model": "gpu0"}}, "'gpu0' is not a device"),
        ({"max_memory": {"cpu": "lots"}}, "Cannot parse max_memory"),
        ({"kernels": "softmax"}, "No operation is called 'softmax'"),
        ({"quantization": {"quant_type": "nf4"}}, "is not an mdl.loader.Quantization"),
        ({"quantization": Quantization()}, "load_in_4bit is not set"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    ],
)
def test_invalid_values_are_rejected_by_name(
    tiny_model: Callable[..., Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        mdl.load(str(tiny_model("llama")), **options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_type": "int4"}, "Unknown 4-bit"),
        ({"compute_dtype": "float99"}, "Cannot load in dtype"),
        ({"storage": "int3"}, "Cannot store packed weights"),
    ],
)
def test_invalid_quantization_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Quantization(**settings)


@pytest.mark.parametrize("damage", ["cut", "gone", "nonsense"])
@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
     "tokenizer_config.json"],
)  # fmt: skip
def test_damage_to_any_file_of_a_snapshot(tmp_path: Path, name: str, damage: str) -> None:
    """One clear error, or the same model if it does not need the file."""
    folder = tiny.save_model("llama", tmp_path / "m")
    whole = mdl.load(str(folder)).model.state_dict()
    data = (folder / name).read_bytes()
    if damage == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data[: len(data) // 2] if damage == "cut" else b"nonsense")
    try:
        loaded = mdl.load(str(folder))
    except MdlError as raised:
        assert raised.why
        return
    assert name not in ("config.json", "model.safetensors")
    if damage != "gone":  # transformers goes on without it too
        assert name == "generation_config.json"
        assert name in loaded.report.warnings[0]
    assert all(torch.equal(v, whole[k]) for k, v in loaded.model.state_dict().items())


def test_a_configuration_with_wrong_shapes_is_rejected(tmp_path: Path) -> None:
    folder = tiny.save_model("llama", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 128}))
    with pytest.raises(LoadError, match=r"has shape \(|cannot build"):
        mdl.load(str(folder))


def test_added_tokens_without_an_embedding_are_warned_of(tmp_path: Path) -> None:
    folder = tiny.save_model("llama", tmp_path / "m")
    tokens = tiny.tokenizer()
    tokens.add_tokens([f"<extra{n}>" for n in range(100)])
    tokens.save_pretrained(folder)
    (warning,) = mdl.load(str(folder)).report.warnings
    assert "no embedding for <extra" in warning and "others" in warning


def test_missing_weights_of_its_own_class_are_rejected(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny.save_model("llama", tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadError, match="lacks 1 weights"):
        mdl.load(str(folder))


def test_a_task_may_add_a_new_head(tiny_model: Callable[..., Path]) -> None:
    loaded = mdl.load(str(tiny_model("llama")), num_labels=3)
    assert type(loaded.model).__name__ == "LlamaForSequenceClassification"
    assert loaded.report.new_parameters == ("score.weight",)
    assert "new" in loaded.report.warnings[0]


@pytest.mark.parametrize("name", ["deepseek-ai/deepseek-coder-tiny", "Org/other-coder"])
def test_the_tokenizer_is_the_one_transformers_uses_for_the_name(
    hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path, name: str
) -> None:
    """transformers recognizes some repositories by name, but not their snapshot folders."""
    from tokenizers import decoders, pre_tokenizers

    folder = tiny.save_model("llama", tmp_path / "model")
    words = tiny.tokenizer()
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words.backend_tokenizer.decoder = decoders.Fuse()
    words.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "LlamaTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    hub.add_repo(name, folder=folder)
    _, ours = mdl.load(name)
    theirs = transformers.AutoTokenizer.from_pretrained(
        name, cache_dir=Path(hub_env["HF_HOME"]) / "hub", local_files_only=True
    )
    assert type(ours) is type(theirs)
    assert ours("The capital").input_ids == theirs("The capital").input_ids
    is_known = name.startswith("deepseek-ai")
    assert type(ours).__name__ == ("TokenizersBackend" if is_known else "LlamaTokenizer")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Org/Name", {"load_in_4bits": True}, "Did you mean load_in_4bit?"),
        ("Org/Name", {"torch_dtype": "bfloat16"}, "Did you mean dtype?"),
        ("Org/Name", {"revision": 5}, "revision=5"),
        ("Org/Name", {"token": 5}, "token is neither"),
        (None, {}, "None is not a model name"),
    ],
)
def test_a_mistake_in_an_argument_is_rejected_by_name(
    name: Any, options: Any, message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        mdl.load(name, **options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "task", "supported"),
    [("llama", "vision", "text, sequence-classification"), ("qwen2-vl", "text", "vision, encoder")],
)
def test_an_unsupported_task_is_rejected_with_the_supported_ones(
    tiny_model: Callable[..., Path], name: str, task: str, supported: str
) -> None:
    with pytest.raises(LoadError, match=f"do not support the task {task}") as raised:
        mdl.load(str(tiny_model(name)), task=task)
    assert supported in raised.value.next


@pytest.mark.parametrize(
    ("name", "task"), [("llama-classifier", "sequence-classification"), ("bert-encoder", "encoder")]
)
def test_the_checkpoints_own_task_is_built_from_mapped_weights(
    tiny_model: Callable[..., Path], name: str, task: str
) -> None:
    ours = mdl.load(str(tiny_model(name)), task=task)
    theirs = type(ours.model).from_pretrained(tiny_model(name))
    assert ours.report.loaded_by == "mdl"
    mine = ours.model.state_dict()
    assert all(torch.equal(mine[key], value) for key, value in theirs.state_dict().items())


def test_the_result_unpacks_like_a_pair(tiny_model: Callable[..., Path]) -> None:
    loaded = mdl.load(str(tiny_model("llama")))
    assert len(loaded) == 2 and loaded[0] is loaded.model and loaded[-1] is loaded.tokenizer


def test_the_report_shows_eight_bits(tiny_model: Callable[..., Path]) -> None:
    report = mdl.load(str(tiny_model("llama")), load_in_8bit=True).report
    assert report.parameters["quantized"] == 73_728
    assert "73,728 in 8 bits" in str(report) and "fp4" not in str(report)


def test_offline_a_missing_shard_and_a_damaged_one_are_different_errors(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    hub.add_repo("Org/Name", folder=tiny.save_model("llama", tmp_path, max_shard_size="60KB"))
    folder = Path(mdl.load("Org/Name").report.folder)
    shard = folder / "model-00002-of-00004.safetensors"
    kept = shard.readlink()
    shard.unlink()
    with pytest.raises(OfflineError, match=r"Org/Name is not completely in the cache") as raised:
        mdl.load("Org/Name", local_files_only=True)
    assert shard.name in raised.value.why
    shard.symlink_to(kept)
    shard.resolve().write_bytes(b"no weights")
    with pytest.raises(VerificationError, match="damaged"):
        mdl.load("Org/Name", local_files_only=True)
    with pytest.raises(OfflineError, match="Org/Name at other is not"):
        mdl.load("Org/Name", revision="other", local_files_only=True)


def test_a_text_only_chat_template_works_for_a_vision_model(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    tiny.add_qwen_processor(tiny.save_model("qwen2-vl", tmp_path / "vl"))
    loaded = mdl.load(str(tmp_path / "vl"))
    assert isinstance(reply_to(loaded, "Hello", max_new_tokens=2), str)
