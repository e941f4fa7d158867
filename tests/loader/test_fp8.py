"""fp8: stored weights load anywhere if they may become floats; quantizing on load needs a GPU."""

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
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests what happens without a GPU"),
]


@pytest.mark.parametrize("requested", [False, True], ids=["default", "fp8"])
def test_a_stored_fp8_checkpoint_is_dequantized_with_a_warning(
    tmp_path: Path, requested: bool
) -> None:
    meant = tiny.save_fp8_model(tmp_path)
    planned = mdl.plan(str(tmp_path), load_in_fp8=requested)
    loaded = mdl.load(str(tmp_path), load_in_fp8=requested, allow_dequantize=True)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in meant.items())
    report = loaded.report
    assert planned.memory.weights == report.memory["weights"]
    assert (report.dtype, report.quantization) == ("bfloat16", None)
    assert report.warnings == ("the weights are stored in fp8 (1.1 MB) and were dequantized to "
                               "bfloat16 (1.9 MB)",)  # fmt: skip
    assert report.loaded_by == "transformers" and "fp8" in report.note
    assert torch.isfinite(loaded.model(torch.tensor([[1, 5, 9]])).logits).all()


@pytest.mark.parametrize("flag", ["load_in_4bit", "load_in_8bit"])
def test_it_cannot_be_loaded_in_other_formats(tmp_path: Path, flag: str) -> None:
    tiny.save_fp8_model(tmp_path)
    with pytest.raises(UsageError, match="fp8"):
        mdl.load(str(tmp_path), **{flag: True})


def test_quantizing_to_fp8_without_a_gpu_is_rejected_before_downloading(
    hub: LoopbackHub, tiny_model: Callable[..., Path]
) -> None:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    for call in (mdl.load, mdl.plan):
        with pytest.raises(LoadError, match="cannot be quantized to fp8 here"):
            call(NAME, load_in_fp8=True)
    assert hub.count("*/resolve/*.safetensors") == 0
