"""Saving merged models: what is saved is what was trained, and transformers loads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import mdl
from mdl import FastLanguageModel, FastVisionModel
from mdl.errors import MdlError, UsageError
from tests.hub import LoopbackHub
from tests.loader import tiny

pytestmark = [
    pytest.mark.usefixtures("hub_env"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True:UserWarning"),  # meant so here
]
IDS = torch.tensor([[1, 5, 9, 11, 40, 7, 8, 2]])


def tuned(folder: Path, **options: Any) -> Any:
    """A model in float32 with adapters that change something."""
    model, _ = FastLanguageModel.from_pretrained(
        str(folder), load_in_4bit=False, dtype="float32", use_gradient_checkpointing=False
    )
    model = FastLanguageModel.get_peft_model(model, **options)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return FastLanguageModel.for_inference(model)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {}),
        ("qwen3-moe", {}),
        ("mixtral", {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}),
        ("llama-tied", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("llama-tied", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    ],
    ids=["dense", "experts", "experts by name", "head apart", "tied"],
)
def test_the_merged_model_computes_the_same(
    tiny_model: Callable[..., Path], tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    model = tuned(tiny_model(name), **options)
    with torch.inference_mode():
        expected = model(IDS).logits
    model.save_pretrained_merged(tmp_path)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.inference_mode():
        found = merged(IDS).logits
    assert torch.allclose(found, expected, atol=1e-4), (found - expected).abs().max()


def test_tied_weights_stay_tied_unless_they_were_trained_apart(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_model("llama-tied")
    apart = tuned(folder, target_modules=["q_proj"], modules_to_save=["lm_head"])
    apart.save_pretrained_merged(tmp_path / "apart")
    tuned(folder, target_modules=["q_proj"]).save_pretrained_merged(tmp_path / "tied")
    tied = {
        each: json.loads((tmp_path / each / "config.json").read_text())["tie_word_embeddings"]
        for each in ("apart", "tied")
    }
    assert tied == {"apart": False, "tied": True}


def test_only_the_adapters(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = tuned(tiny_model("llama"))
    model.save_pretrained_merged(tmp_path, save_method="lora")
    assert (tmp_path / "adapter_model.safetensors").exists()
    again, _ = FastLanguageModel.from_pretrained(str(tmp_path), load_in_4bit=False, dtype="float32")
    with torch.inference_mode():
        assert torch.equal(FastLanguageModel.for_inference(again)(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_method": "merged_4bit"}, "merged_16bit .the merged weights., lora"),
        ({"safe_serialization": False}, "safe_serialization=False"),
        ({"push_to_hbu": True}, "push_to_hbu"),
    ],
)
def test_what_would_save_something_else_is_rejected(
    tiny_model: Callable[..., Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    model, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")), load_in_4bit=False)
    with pytest.raises(UsageError, match=message):
        model.save_pretrained_merged(tmp_path / "merged", **options)
    assert not (tmp_path / "merged").exists()


def test_gguf_and_vllm_say_what_does_it(tiny_model: Callable[..., Path]) -> None:
    model, tokenizer = FastLanguageModel.from_pretrained(str(tiny_model("llama")))
    with pytest.raises(UsageError, match="convert_hf_to_gguf"):
        model.save_pretrained_gguf("folder", tokenizer, quantization_method="q8_0")
    with pytest.raises(UsageError, match="vllm"):
        model.fast_generate(["Hello"])
    with pytest.raises(UsageError, match="vllm"):
        FastLanguageModel.from_pretrained(str(tiny_model("llama")), fast_inference=True)


def test_a_processor_without_torchvision_is_saved_and_reloaded(tmp_path: Path) -> None:
    """The video settings, which need torchvision, are kept in what is saved."""
    folder = tiny.save_model("qwen2-vl", tmp_path / "vl")
    tiny.add_qwen_processor(folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    model, processor = FastVisionModel.from_pretrained(str(folder), load_in_4bit=False)
    model.save_pretrained_merged(tmp_path / "merged", processor)
    saved = json.loads((tmp_path / "merged" / "processor_config.json").read_text())
    assert saved["video_processor"]["patch_size"] == settings["patch_size"]
    assert saved["processor_class"] == "Qwen2VLProcessor"
    _, again = FastVisionModel.from_pretrained(str(tmp_path / "merged"), load_in_4bit=False)
    image = torch.randint(0, 255, (3, 56, 56), dtype=torch.uint8)
    text = "<|vision_start|><|image_pad|><|vision_end|>What is this?"
    before, after = (
        p(images=[image], text=[text], return_tensors="pt") for p in (processor, again)
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.usefixtures("hub_env")
def test_a_merged_model_is_uploaded_and_loads_from_there(
    hub: LoopbackHub, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_user("hf_mine", "me")
    model = tuned(tiny_model("llama"))
    with torch.inference_mode():
        expected = model(IDS).logits
    where = model.push_to_hub_merged("me/tuned", token="hf_mine", private=True)
    assert where.endswith(hub.repos["me/tuned"].head().id)
    assert hub.repos["me/tuned"].private
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    loaded = mdl.load("me/tuned", dtype="float32")
    with torch.inference_mode():
        assert torch.allclose(loaded.model(IDS).logits, expected, atol=1e-4)
    with pytest.raises(MdlError, match="me/tuned"):
        model.push_to_hub_merged("me/tuned", token="hf_unknown")
