"""Unsloth's names and arguments: taken for what they are, or with advice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import mdl
from mdl import FastLanguageModel, FastModel
from mdl.errors import UsageError

pytestmark = pytest.mark.usefixtures("hub_env")


def test_arguments_of_older_notebooks_are_taken(tiny_model: Callable[..., Path]) -> None:
    model, _ = FastModel.from_pretrained(
        str(tiny_model("llama")), load_in_4bit=False, torch_dtype=torch.float32,
        unsloth_force_compile=True,
    )  # fmt: skip
    assert model.dtype == torch.float32


def test_an_auto_class_is_a_task(tiny_model: Callable[..., Path]) -> None:
    model, _ = FastModel.from_pretrained(
        str(tiny_model("llama")), load_in_4bit=False, num_labels=3,
        auto_model=transformers.AutoModelForSequenceClassification,
    )  # fmt: skip
    assert type(model).__name__ == "LlamaForSequenceClassification"
    with pytest.raises(UsageError, match="AutoModelForSpeechSeq2Seq"):
        FastModel.from_pretrained(
            str(tiny_model("llama")), auto_model=transformers.AutoModelForSpeechSeq2Seq
        )


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"fast_inference": True}, "vllm.LLM"),
        ({"whisper_task": "transcribe"}, "AutoModelForSpeechSeq2Seq"),
        ({"qat_scheme": "int4"}, "torchao"),
    ],
)
def test_what_mdl_does_not_do_says_what_does(
    tiny_model: Callable[..., Path], options: dict[str, Any], advice: str
) -> None:
    with pytest.raises(UsageError, match=advice):
        FastLanguageModel.from_pretrained(str(tiny_model("llama")), **options)


def test_bfloat16_is_supported_on_a_cpu() -> None:
    assert mdl.is_bfloat16_supported() and mdl.is_bf16_supported()


def test_an_import_of_a_name_that_mdl_lacks_says_what_to_use() -> None:
    script = "from mdl import PatchFastRL"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "trl.GRPOTrainer works unpatched" in done.stderr
    assert not hasattr(mdl, "NoSuchName")
