"""Adapters: on what they go, what is saved with them, and what a newer PEFT writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
import transformers as t

from tests.corpus import building as b
from tests.corpus.shape import shape
from tests.loader import tiny

CAUSAL = {"auto": "AutoPeftModelForCausalLM", "format": "adapter"}


def adapter(folder: Path, config: Any, *, tokens: int = 0) -> Path:
    """Save an adapter on a Llama beside it; `tokens` were added to the vocabulary."""
    base = folder.parent / "base"
    base.mkdir()
    b.llama(base)
    model = t.AutoModelForCausalLM.from_pretrained(base)
    if tokens:
        words = tiny.tokenizer()
        words.add_tokens([f"<new{n}>" for n in range(320 + tokens - len(words))])
        model.resize_token_embeddings(320 + tokens)
        words.save_pretrained(folder)
    made = peft.get_peft_model(model, config)
    torch.manual_seed(5)
    for name, parameter in made.named_parameters():
        if "lora_B" in name or "prompt" in name:
            torch.nn.init.normal_(parameter)
    made.save_pretrained(folder)
    b.edit(folder / "adapter_config.json", base_model_name_or_path=str(base))
    return base


def lora(**settings: Any) -> Any:
    return peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM",
                              **settings})  # fmt: skip


@shape("peft's own example: LoRA", **CAUSAL)
def lora_adapter(folder: Path) -> None:
    adapter(folder, lora())


@shape("rsLoRA, DoRA and a bias", **CAUSAL)
def dora_adapter(folder: Path) -> None:
    adapter(folder, lora(use_dora=True, use_rslora=True, bias="lora_only"))


@shape("adapter_config.json of a newer PEFT: keys that this one does not have", **CAUSAL)
def lora_of_tomorrow(folder: Path) -> None:
    adapter(folder, lora())
    b.edit(folder / "adapter_config.json", brand_new_option=True, another={"a": 1})


@shape(
    "peft PEFT_TYPE_TO_CONFIG_MAPPING: a peft_type that only a newer PEFT has",
    says="HYPERX",
    **CAUSAL,
)
def unknown_peft_type(folder: Path) -> None:
    adapter(folder, lora())
    b.edit(folder / "adapter_config.json", peft_type="HYPERX")


@shape("adapter_config.json without peft_type (before PEFT 0.3)", says="peft_type", **CAUSAL)
def no_peft_type(folder: Path) -> None:
    adapter(folder, lora())
    b.edit(folder / "adapter_config.json", peft_type=...)


@shape("peft's prompt tuning example (smangrul/*_PROMPT_TUNING_CAUSAL_LM)", **CAUSAL)
def prompt_tuning(folder: Path) -> None:
    adapter(folder, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))


@shape("peft's prefix tuning example", **CAUSAL)
def prefix_tuning(folder: Path) -> None:
    adapter(folder, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))


@shape("peft's p-tuning example", **CAUSAL)
def p_tuning(folder: Path) -> None:
    adapter(folder, peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=2,
                                             encoder_hidden_size=8))  # fmt: skip


@shape("peft's IA3", **CAUSAL)
def ia3(folder: Path) -> None:
    adapter(folder, peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"],
                                   feedforward_modules=["down_proj"]))  # fmt: skip


@shape("peft#1300, peft#1457: tokens added, the embeddings in modules_to_save", **CAUSAL)
def added_tokens(folder: Path) -> None:
    adapter(folder, lora(modules_to_save=["embed_tokens", "lm_head"]), tokens=6)


@shape("peft 0.15: trainable_token_indices of added tokens", **CAUSAL)
def trainable_tokens(folder: Path) -> None:
    adapter(folder, lora(trainable_token_indices=[322, 323]), tokens=6)


@shape("peft#2415: a tokenizer smaller than the embeddings beside the adapter", **CAUSAL)
def smaller_tokenizer(folder: Path) -> None:
    adapter(folder, lora())
    tiny.tokenizer().save_pretrained(folder)


@shape(
    "Kaggle and Colab: the base is a path of another machine", says="(?s)/kaggle.*base", **CAUSAL
)
def base_of_another_machine(folder: Path) -> None:
    adapter(folder, lora())
    b.edit(folder / "adapter_config.json", base_model_name_or_path="/kaggle/input/llama")


@shape(
    "Colab again: the base is given by hand",
    **CAUSAL,
    mdl="loads",
    because="the user names the base",
    options={"base": "./base"},
)
def base_by_hand(folder: Path) -> None:
    base_of_another_machine(folder)


@shape("an adapter that names no base", says="base", **CAUSAL)
def no_base(folder: Path) -> None:
    adapter(folder, lora())
    b.edit(folder / "adapter_config.json", base_model_name_or_path=None)


@shape("alpaca-lora: adapter_model.bin, allowed", options={"allow_pickle": True}, **CAUSAL)
def pickled_adapter(folder: Path) -> None:
    adapter(folder, lora())
    found = b.tensors(folder, "adapter_model.safetensors")
    torch.save(found, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


@shape(
    "alpaca-lora: adapter_model.bin, not allowed",
    mdl="refuses",
    says="allow_pickle",
    because="pickles run code; they have to be allowed",
    **CAUSAL,
)
def pickled_adapter_refused(folder: Path) -> None:
    pickled_adapter(folder)


@shape(
    "transformers maybe_load_adapters: a whole model with an adapter beside it",
    auto="AutoModelForCausalLM",
)
def model_and_adapter(folder: Path) -> None:
    adapter(folder, lora())
    for path in (folder.parent / "base").iterdir():
        if path.name != "README.md":
            (folder / path.name).write_bytes(path.read_bytes())


@shape(
    "ybelkada/opt-350m-lora's kind: made for another model", says="size mismatch|shape", **CAUSAL
)
def adapter_of_another_model(folder: Path) -> None:
    base = adapter(folder, lora())
    for path in base.iterdir():
        path.unlink()
    b.llama(base, hidden_size=32)


@shape(
    "a task type of PEFT that is no text: feature extraction",
    auto="AutoPeftModelForFeatureExtraction",
    format="adapter",
)
def adapter_of_an_encoder(folder: Path) -> None:
    base = folder.parent / "base"
    base.mkdir()
    b.bert(base, t.BertModel)
    model = t.BertModel.from_pretrained(base)
    settings = peft.LoraConfig(r=2, target_modules=["query"], task_type="FEATURE_EXTRACTION")
    peft.get_peft_model(model, settings).save_pretrained(folder)
    b.edit(folder / "adapter_config.json", base_model_name_or_path=str(base))
