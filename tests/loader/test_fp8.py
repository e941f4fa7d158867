"""fp8: stored so, it loads anywhere; made so, it needs a GPU with it, and that is said first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mdl
from mdl.errors import LoadError, UsageError
from tests.hub import LoopbackHub
from tests.loader import tiny

NAME = "Org/Name"
pytestmark = [
    pytest.mark.usefixtures("hub_env"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU"),
]


@pytest.mark.parametrize("asked", [False, True], ids=["as-it-is", "fp8"])
def test_a_stored_fp8_checkpoint_is_dequantized_and_said_so(tmp_path: Path, asked: bool) -> None:
    meant = tiny.save_fp8_model(tmp_path)
    planned = mdl.plan(str(tmp_path), load_in_fp8=asked)
    loaded = mdl.load(str(tmp_path), load_in_fp8=asked)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in meant.items())
    report = loaded.report
    assert planned.memory.weights == report.memory["weights"]
    assert (report.dtype, report.quantization) == ("bfloat16", None)
    assert report.warnings == ("the weights are stored in fp8 and were dequantized to "
                               "torch.bfloat16",)  # fmt: skip
    assert report.loaded_by == "transformers" and "fp8" in report.note
    assert torch.isfinite(loaded.model(torch.tensor([[1, 5, 9]])).logits).all()


@pytest.mark.parametrize("flag", ["load_in_4bit", "load_in_8bit"])
def test_it_becomes_nothing_else(tmp_path: Path, flag: str) -> None:
    tiny.save_fp8_model(tmp_path)
    with pytest.raises(UsageError, match="fp8"):
        mdl.load(str(tmp_path), **{flag: True})


def test_quantizing_to_fp8_without_its_gpu_is_refused_before_a_byte(
    hub: LoopbackHub, tiny_model: Callable[..., Path]
) -> None:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    for call in (mdl.load, mdl.plan):
        with pytest.raises(LoadError, match="cannot be quantized to fp8 here"):
            call(NAME, load_in_fp8=True)
    assert hub.count("*/resolve/*") == 0
