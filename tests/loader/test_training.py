"""What people call after a load: adapters, training, inference, merged weights, kernels."""

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
from mdl.errors import UsageError
from tests.loader import tiny

pytestmark = pytest.mark.usefixtures("hub_env")
IDS = torch.tensor([[1, 5, 9, 11, 40, 7, 8, 2]])


def checkpoints(model: Any) -> bool:
    """Whether any layer recomputes its activations in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def train(model: Any, steps: int = 10, rate: float = 0.02) -> list[float]:
    """The losses of a few steps of Adam on one sequence."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=rate)
    losses = []
    for _ in range(steps):
        loss = model(IDS, labels=IDS).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize("in_4bit", [True, False], ids=["qlora", "lora"])
def test_training_lowers_the_loss_and_the_adapter_merges(
    tiny_model: Callable[..., Path], tmp_path: Path, in_4bit: bool
) -> None:
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(tiny_model("llama")), load_in_4bit=in_4bit, max_seq_length=64
    )
    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    losses = train(model)
    assert losses[-1] < 0.95 * losses[0]
    FastLanguageModel.for_inference(model)
    with torch.inference_mode():
        expected = model(IDS).logits
    model.save_pretrained_merged(tmp_path / "merged", tokenizer)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16 and not hasattr(merged.config, "quantization_config")
    with torch.inference_mode():
        found = merged(IDS).logits
    assert torch.allclose(found, expected, atol=0.02 * expected.abs().max().item())
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")("Paris").input_ids
    with torch.inference_mode():  # unchanged by saving, but for bitsandbytes' repacking
        assert torch.allclose(model(IDS).logits, expected, atol=0.01)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
def test_adapters_save_and_reload(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    import peft

    model, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")))
    model = FastLanguageModel.get_peft_model(model, r=4)
    train(model, steps=2)
    FastLanguageModel.for_inference(model)
    model.save_pretrained(tmp_path)
    base, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")))
    again = peft.PeftModel.from_pretrained(base, tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_merging_tied_and_saved_modules(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")), load_in_4bit=False)
    model = FastLanguageModel.get_peft_model(model, r=4, modules_to_save=["lm_head"])
    with torch.autocast("cpu", torch.bfloat16):  # PEFT trains whole modules in float32
        train(model, steps=2)
    FastLanguageModel.for_inference(model)
    FastLanguageModel.save_pretrained_merged(model, tmp_path)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected, found = model(IDS).logits, merged(IDS).logits
    assert torch.allclose(found, expected, atol=0.02 * expected.abs().max().item())


def test_checkpointing_depends_on_the_mode(tiny_model: Callable[..., Path]) -> None:
    model, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")), load_in_4bit=False)
    model = FastLanguageModel.get_peft_model(model, r=4)
    assert checkpoints(model) and model.training and not model.config.use_cache
    FastLanguageModel.for_inference(model)
    assert not checkpoints(model) and not model.training and model.config.use_cache
    FastLanguageModel.for_training(model)
    assert checkpoints(model) and model.training


def test_the_finetune_arguments_select_layers(tmp_path: Path) -> None:
    folder = tiny.save_model("qwen2-vl", tmp_path / "vl")
    tiny.add_qwen_processor(folder)
    for switch, part in (("finetune_vision_layers", "visual"), ("finetune_mlp_modules", "mlp")):
        model, _ = FastVisionModel.from_pretrained(str(folder), load_in_4bit=False)
        tuned = FastVisionModel.get_peft_model(model, r=4, **{switch: False})
        names = [name for name, p in tuned.named_parameters() if p.requires_grad]
        assert names and not [name for name in names if part in name]


def test_full_finetuning_trains_every_weight(tiny_model: Callable[..., Path]) -> None:
    model, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")), full_finetuning=True)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert model.mdl_report.resolution["format"] == "16bit"


def test_unknown_arguments_are_rejected_by_name(tiny_model: Callable[..., Path]) -> None:
    model, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")))
    with pytest.raises(UsageError, match="lora_alfa"):
        FastLanguageModel.get_peft_model(model, lora_alfa=3)
    with pytest.raises(UsageError, match="save_method"):
        FastLanguageModel.save_pretrained_merged(model, "x", save_method="gguf")


def test_kernels_can_be_applied_later_and_removed(tiny_model: Callable[..., Path]) -> None:
    from mdl import kernels

    exact = mdl.load(str(tiny_model("llama")), kernels=False)
    assert exact.report.kernels == ()
    with torch.inference_mode():
        before = exact.model(IDS).logits
        assert kernels.apply(exact.model).swapped
        assert torch.allclose(exact.model(IDS).logits, before, atol=0.05)
        kernels.remove(exact.model)
        assert torch.equal(exact.model(IDS).logits, before)
    chosen = mdl.load(str(tiny_model("llama")), kernels=["rms_norm"])
    (norm,) = chosen.report.kernels
    assert norm["summary"] == "rms_norm: in 5 modules; not checked"


def test_other_libraries_are_not_patched(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """PEFT, Trainer, torch.compile and DTensor still work after mdl loaded a model."""
    from torch.distributed.tensor import DTensor

    model, _ = mdl.load(str(tiny_model("llama")))
    assert torch.empty(2).device.type == "cpu" and torch.get_default_dtype() == torch.float32
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=1, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    data = [{"input_ids": IDS[0], "labels": IDS[0]}] * 2
    trained = transformers.Trainer(model=model, args=arguments, train_dataset=data).train()
    assert trained.training_loss > 0
    compiled = torch.compile(model.model.norm, backend="eager")
    assert compiled(torch.ones(1, 2, 64, dtype=torch.bfloat16)).shape == (1, 2, 64)
    assert issubclass(DTensor, torch.Tensor)


@pytest.mark.model
def test_the_command_prints_the_reply_to_a_prompt(smollm2: Path, capsys: Any) -> None:
    from mdl.cli.entry import run

    question = "What is the capital of France?"
    arguments = [
        "load",
        str(smollm2),
        "--4bit",
        "--prompt",
        question,
        "--json",
        "--max-new-tokens",
        "7",
    ]
    assert run(arguments) == 0
    assert "Paris" in json.loads(capsys.readouterr().out)["answer"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r=0 is not a rank"),
        ({"r": 2.5}, "r=2.5 is not a rank"),
        ({"target_modules": ["q_proj", "nosuch_proj"]}, "no modules named nosuch_proj"),
        ({"target_modules": []}, "is empty"),
    ],
)
def test_invalid_adapters_are_rejected_and_leave_the_model_unchanged(
    tiny_model: Callable[..., Path], options: dict[str, Any], message: str
) -> None:
    model, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")), load_in_4bit=False)
    before = [name for name, _ in model.named_parameters()]
    with pytest.raises(UsageError, match=message):
        FastLanguageModel.get_peft_model(model, **options)
    assert [name for name, _ in model.named_parameters()] == before


def test_adapters_are_added_once(tiny_model: Callable[..., Path]) -> None:
    model, _ = FastLanguageModel.from_pretrained(str(tiny_model("llama")), load_in_4bit=False)
    model = FastLanguageModel.get_peft_model(model)
    with pytest.raises(UsageError, match="already has adapters"):
        FastLanguageModel.get_peft_model(model)
