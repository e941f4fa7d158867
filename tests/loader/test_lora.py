"""`get_peft_model`: the adapters are those that PEFT itself makes of the same arguments."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from mdl import FastLanguageModel
from mdl.errors import UsageError

pytestmark = [
    pytest.mark.usefixtures("hub_env"),
    # PEFT's own, when it is called without mdl.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*_pattern keys .*gate_up_proj:RuntimeWarning"),
]
IDS = torch.tensor([[1, 5, 9, 11, 40, 7, 8, 2]])
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(folder: Path, **options: Any) -> Any:
    model, _ = FastLanguageModel.from_pretrained(str(folder), load_in_4bit=False, **options)
    return model


def by_peft(folder: Path, **options: Any) -> Any:
    """What PEFT makes of the model that transformers loads, with mdl's default rank and seed."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(3407)
    config = peft.LoraConfig(r=16, lora_alpha=16, task_type="CAUSAL_LM", **options)
    return peft.get_peft_model(model, config).train()


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def assert_same(ours: Any, theirs: Any) -> None:
    """The same trained weights by name and value, and the same gradients."""
    expected = trained(theirs)
    assert trained(ours).keys() == expected.keys()
    for name, parameter in trained(ours).items():
        assert torch.equal(parameter, expected[name]), name
    with torch.autocast("cpu", torch.bfloat16):
        for model in (ours, theirs):
            model(IDS, labels=IDS).loss.backward()
    for name, parameter in trained(ours).items():
        assert torch.equal(parameter.grad, expected[name].grad), name


def test_the_usual_names_reach_the_experts_of_a_mixture(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("qwen3-moe")
    ours = FastLanguageModel.get_peft_model(load(folder), target_modules=SEVEN)
    assert any("experts" in name for name in trained(ours))
    assert_same(ours, by_peft(folder, target_modules=SEVEN))


def test_without_names_the_experts_are_adapted_too(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("qwen3-moe")
    ours = FastLanguageModel.get_peft_model(load(folder))
    assert_same(ours, by_peft(folder, target_modules=SEVEN))


@pytest.mark.parametrize("names", [SEVEN, None])
def test_experts_that_get_no_adapter_are_named(
    tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture, names: list[str] | None
) -> None:
    caplog.set_level(logging.WARNING, "mdl")
    ours = FastLanguageModel.get_peft_model(load(tiny_model("mixtral")), target_modules=names)
    assert not any("experts" in name for name in trained(ours))
    assert "target_parameters=['experts.down_proj', 'experts.gate_up_proj']" in caplog.text
    advised = {"target_parameters": ["experts.down_proj", "experts.gate_up_proj"]}
    ours = FastLanguageModel.get_peft_model(load(tiny_model("mixtral")), **advised)
    assert any("experts" in name for name in trained(ours))


def test_usual_names_that_a_model_lacks_are_named(
    tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_model("phi3")
    ours = FastLanguageModel.get_peft_model(load(folder), target_modules=SEVEN)
    assert "no modules named q_proj, k_proj, v_proj, gate_proj, up_proj" in caplog.text
    assert_same(ours, by_peft(folder, target_modules=SEVEN))


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_embeddings_and_head_are_trained_whole(tiny_model: Callable[..., Path], name: str) -> None:
    folder, names = tiny_model(name), [*SEVEN, "embed_tokens", "lm_head"]
    ours = FastLanguageModel.get_peft_model(load(folder), target_modules=names)
    whole = [n for n in trained(ours) if "modules_to_save" in n]
    saved = ["embed_tokens"] if name == "llama-tied" else ["embed_tokens", "lm_head"]
    tied = {"ensure_weight_tying": True} if name == "llama-tied" else {}
    assert len(whole) == len(saved)
    assert_same(ours, by_peft(folder, target_modules=SEVEN, modules_to_save=saved, **tied))


def test_full_finetuning_keeps_the_model_whole(
    tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = load(tiny_model("llama"), full_finetuning=True)
    tuned = FastLanguageModel.get_peft_model(model, r=16)
    assert tuned is model and "full_finetuning" in caplog.text
    assert all(p.requires_grad for p in tuned.parameters()) and tuned.training


def test_loftq_settings_reach_peft(tiny_model: Callable[..., Path]) -> None:
    settings = {"loftq_bits": 4, "loftq_iter": 1}
    options: dict[str, Any] = {"init_lora_weights": "loftq", "loftq_config": settings}
    with pytest.raises(UsageError, match="not quantized yet"):
        quantized, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")))
        FastLanguageModel.get_peft_model(quantized, **options)
    plain = FastLanguageModel.get_peft_model(load(tiny_model("llama")), loftq_config={})
    assert not plain.peft_config["default"].loftq_config


def test_what_peft_rejects_leaves_the_model_unchanged(tiny_model: Callable[..., Path]) -> None:
    model = load(tiny_model("qwen3-moe"))
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(UsageError, match="dropout"):
        FastLanguageModel.get_peft_model(model, target_modules=SEVEN, lora_dropout=0.1)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert trained(FastLanguageModel.get_peft_model(model, target_modules=SEVEN))


@pytest.mark.parametrize("rest", [{}, {"load_in_4bit": False}], ids=["4-bit", "16-bit"])
def test_trying_the_model_before_training_changes_no_gradient(
    tiny_model: Callable[..., Path], rest: dict[str, Any]
) -> None:
    """On some CPUs bitsandbytes repacks its weights when a model in eval mode is run."""

    def gradients(*, tried: bool) -> dict[str, torch.Tensor]:
        model, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")), **rest)
        if tried:
            with torch.no_grad():
                model(IDS)
        model = FastLanguageModel.get_peft_model(model)
        if tried:
            FastLanguageModel.for_inference(model)
            with torch.no_grad():
                model(IDS)
            model.train()  # as a trainer does
        model(IDS, labels=IDS).loss.backward()
        return {name: p.grad for name, p in trained(model).items() if p.grad is not None}

    expected = gradients(tried=False)
    for name, gradient in gradients(tried=True).items():
        assert torch.equal(gradient, expected[name]), name
