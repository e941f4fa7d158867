"""TRL on models that mdl loaded: the scripts of docs/training.md, and the same losses."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mdl import FastLanguageModel, FastVisionModel
from tests.hub import LoopbackHub
from tests.loader import tiny

pytestmark = [
    pytest.mark.system("trl"),
    # TRL's and PEFT's own.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text()
SCRIPTS = re.findall(r"^## ([^\n]*)$(?:(?!^## ).)*?^```python\n(.*?)^```$", PAGE, re.M | re.S)
COMMON: dict[str, Any] = {
    "max_steps": 3, "per_device_train_batch_size": 2, "report_to": "none", "save_strategy": "no",
    "logging_steps": 1, "use_cpu": True, "bf16": False, "disable_tqdm": True, "seed": 3,
    "dataloader_pin_memory": False, "learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture
def hub_with_models(
    request: pytest.FixtureRequest, hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> dict[str, str]:
    """A Hub that has the page's models: the real SmolLM2 for chat, tiny ones for the others."""
    from demo.smollm2 import make

    chat = request.node.callspec.params["n"] == 0
    text = make() if chat else tiny.save_model("llama-tied", tmp_path / "text")
    vision = tiny.save_model("qwen2-vl", tmp_path / "vl")
    tiny.add_qwen_processor(vision)
    (vision / "chat_template.jinja").write_text(tiny.VISION_TEMPLATE)
    hub.add_repo("HuggingFaceTB/SmolLM2-135M-Instruct", folder=text)
    hub.add_repo("Qwen/Qwen2-VL-2B-Instruct", folder=vision)
    return hub_env


@pytest.mark.parametrize("n", range(len(SCRIPTS)), ids=[title for title, _ in SCRIPTS])
def test_a_script_of_the_page_runs_as_it_is(
    n: int, hub_with_models: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPTS[n][1]], cwd=tmp_path, env=hub_with_models | QUIET,
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    folder = next(tmp_path.glob("*/adapter*"), None) or next(tmp_path.glob("*/merged"))
    merged = folder.with_name("merged")
    assert (merged / "model.safetensors").exists() and (merged / "tokenizer.json").exists()


QUIET = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}


def test_the_page_has_five_scripts() -> None:
    assert len(SCRIPTS) == 5


def by_mdl(folder: Path) -> Any:
    model, _ = FastLanguageModel.from_pretrained(str(folder), load_in_4bit=False, dtype="float32")
    return FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)


def by_peft(folder: Path) -> Any:
    import peft

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(3407)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=names, task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


def sft(model: Any, tokenizer: Any, folder: Path) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"text": f"The capital of France is Paris. {n}"} for n in range(6)]
    args = SFTConfig(output_dir=str(folder), max_length=32, **COMMON)
    return SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows),
                      processing_class=tokenizer)  # fmt: skip


def dpo(model: Any, tokenizer: Any, folder: Path) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [{"prompt": f"What is asked? {n}", "chosen": " Paris.", "rejected": " A model."}
            for n in range(6)]  # fmt: skip
    args = DPOConfig(output_dir=str(folder), max_length=48, **COMMON)
    return DPOTrainer(model, args=args, train_dataset=Dataset.from_list(rows),
                      processing_class=tokenizer)  # fmt: skip


def grpo(model: Any, tokenizer: Any, folder: Path) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def vowels(completions: list[str], **columns: Any) -> list[float]:
        return [float(sum(each in "aeiou" for each in text)) for text in completions]

    args = GRPOConfig(output_dir=str(folder), num_generations=2, max_completion_length=8, **COMMON)
    return GRPOTrainer(
        model, vowels, args=args, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": f"The capital {n}"} for n in range(6)]),
    )  # fmt: skip


@pytest.mark.usefixtures("hub_env")
@pytest.mark.parametrize("make", [sft, dpo, grpo])
def test_the_losses_are_those_without_mdl(
    make: Callable[..., Any], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    def losses(model: Any) -> list[tuple[float, float]]:
        trainer = make(model, tiny.tokenizer(), tmp_path)
        trainer.train()
        return [(h["loss"], h["grad_norm"]) for h in trainer.state.log_history if "loss" in h]

    folder = tiny_model("llama")
    ours, theirs = losses(by_mdl(folder)), losses(by_peft(folder))
    assert len(ours) == COMMON["max_steps"] and any(norm for _, norm in ours)
    assert ours == theirs


@pytest.mark.usefixtures("hub_env")
def test_the_vision_collator_makes_trls_batches(tmp_path: Path) -> None:
    from PIL import Image
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from mdl.trainer import UnslothVisionDataCollator

    folder = tiny.save_model("qwen2-vl", tmp_path / "vl")
    tiny.add_qwen_processor(folder)
    (folder / "chat_template.jinja").write_text(tiny.VISION_TEMPLATE)
    model, processor = FastVisionModel.from_pretrained(str(folder), load_in_4bit=False)
    image = Image.new("RGB", (56, 56), "red")
    question = {"type": "text", "text": "What is it?"}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Paris.", "image": None}]}
    ours = [{"messages": [
        {"role": "user", "content": [{"type": "image", "image": image, "text": None}, question]},
        answer,
    ]}]  # fmt: skip
    theirs = [{"images": [image], "messages": [
        {"role": "user", "content": [{"type": "image"}, question]},
        {"role": "assistant", "content": [{"type": "text", "text": "Paris."}]},
    ]}]  # fmt: skip
    batch = UnslothVisionDataCollator(model, processor)(ours)
    expected = DataCollatorForVisionLanguageModeling(processor)(theirs)
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    collate = UnslothVisionDataCollator(model, processor, train_on_responses_only=True)
    labels = collate(ours)["labels"][0]
    assert processor.decode(labels[labels != -100]).strip() == "Paris."


def _parameters(name: str) -> set[str]:
    import trl

    owner = transformers if name == "TrainingArguments" else trl
    return set(inspect.signature(getattr(owner, name).__init__).parameters)


@pytest.mark.parametrize(
    ("name", "gone", "now"),
    [
        ("SFTTrainer", "tokenizer", "processing_class"),
        ("DPOTrainer", "tokenizer", "processing_class"),
        ("GRPOTrainer", "tokenizer", "processing_class"),
        ("SFTConfig", "max_seq_length", "max_length dataset_text_field packing dataset_num_proc"),
        ("SFTTrainer", "dataset_text_field packing dataset_num_proc max_seq_length", ""),
        ("DPOTrainer", "beta max_length", ""),
        ("DPOConfig", "max_prompt_length", "beta max_length"),
        ("GRPOConfig", "max_prompt_length", "max_completion_length"),
        (
            "TrainingArguments",
            "warmup_ratio evaluation_strategy group_by_length overwrite_output_dir "
            "save_safetensors logging_dir",
            "warmup_steps eval_strategy train_sampling_strategy",
        ),
    ],
)
def test_the_table_of_changes_is_right(name: str, gone: str, now: str) -> None:
    have = _parameters(name)
    assert not have & set(gone.split())
    assert set(now.split()) <= have
