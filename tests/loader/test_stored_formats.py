"""Formats that are loaded as they are stored: bit for bit what transformers makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import mdl
from mdl.cli.entry import run
from mdl.errors import LoadError, UsageError
from mdl.loader.build import quantizers
from mdl.loader.model_stats import measure_model
from tests.hub import LoopbackHub
from tests.loader import stored, tiny

NAME = "Org/Model"
IDS = torch.tensor([[1, 5, 9]])
pytestmark = [
    pytest.mark.usefixtures("hub_env"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests what happens without a GPU"),
]
SAVED: dict[str, Callable[[Path], Any]] = {
    "w4a16": stored.save_w4a16,
    "compressed fp8": stored.save_fp8_dynamic,
    "mxfp4": stored.save_mxfp4,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`saved("w4a16")` is a folder with such a model, quantized once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("stored")
            SAVED[name](made[name])
        return made[name]

    return get


@pytest.mark.parametrize("name", SAVED)
def test_the_model_is_the_one_that_transformers_loads(
    name: str, saved: Callable[[str], Path]
) -> None:
    folder = saved(name)
    planned = mdl.plan(str(folder), allow_dequantize=True)
    ours = mdl.load(str(folder), allow_dequantize=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    stored.check_same(ours.model, theirs)
    assert ours.report.parameters["total"] == planned.parameters
    assert torch.equal(ours.model(IDS).logits, theirs(IDS).logits)
    in_use = measure_model(ours.model).bytes  # compressed-tensors unpacks in the first forward pass
    assert abs(planned.memory.weights - in_use) < 0.05 * in_use
    assert ours.report.loaded_by == "transformers" and planned.format in name
    if ours.report.quantization is not None:
        assert f"{planned.format}, compressed-tensors, bfloat16, as stored" in str(ours.report)


def test_what_is_unpacked_later_is_announced(saved: Callable[[str], Path]) -> None:
    folder = str(saved("w4a16"))
    change = mdl.plan(folder).dequantized
    assert change is not None and change.allowed and "first runs" in change.reason
    report = mdl.load(folder).report
    assert any("first runs" in text for text in report.warnings)
    assert report.parameters["quantized"] == 73_728


@pytest.mark.parametrize(
    ("method", "save"), [("mxfp4", stored.save_mxfp4), ("fp8", tiny.save_fp8_model)]
)
def test_a_silent_fallback_to_floats_is_refused_before_the_download(
    method: str, save: Callable[[Path], Any], hub: LoopbackHub, tmp_path: Path, capsys: Any
) -> None:
    save(tmp_path)
    hub.add_repo(NAME, folder=tmp_path)
    options: dict[str, Any] = {"use_exact_model_name": True}
    planned = mdl.plan(NAME, **options)
    change = planned.dequantized
    assert change is not None and not planned.fits
    assert (change.format, change.dtype, change.allowed) == (method, "bfloat16", False)
    with pytest.raises(LoadError, match=f"stored in {method}.*would become bfloat16") as error:
        mdl.load(NAME, check_memory=False, **options)
    assert "allow_dequantize=True" in error.value.next and "instead of" in error.value.message
    assert run(["load", NAME, "--exact", "--dry-run"]) == error.value.exit_code
    out = capsys.readouterr()
    assert "dequantized" in out.out and "--allow-dequantize" in out.err
    assert not list(Path(planned.cache_root).rglob("*.safetensors"))
    loaded = mdl.load(NAME, allow_dequantize=True, **options)
    assert loaded.report.memory["weights"] == planned.memory.weights
    assert any(f"stored in {method} (" in text for text in loaded.report.warnings)


@pytest.mark.parametrize(
    ("table", "message", "then"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq need", "pip install gptqmodel optimum"),
        ({"quant_method": "awq", "bits": 4}, "awq need", "pip install gptqmodel"),
        ({"quant_method": "hqq", "quant_config": {}}, "does not load stored HQQ", "vLLM"),
        ({"quant_method": "nvfp4"}, "nvfp4 cannot be loaded here", "mdl tree"),
        ({"quant_method": "quanto", "weights": "int8"}, "quanto need", "optimum-quanto"),
    ],
    ids=lambda value: value["quant_method"] if isinstance(value, dict) else "",
)
def test_what_transformers_cannot_read_here_is_refused_before_the_download(
    table: dict[str, Any], message: str, then: str, hub: LoopbackHub,
    tiny_model: Callable[..., Path],
) -> None:  # fmt: skip
    files = {path.name: path for path in tiny_model("llama").iterdir()}
    config = {**json.loads(files["config.json"].read_text()), "quantization_config": table}
    hub.add_repo(NAME, files={**files, "config.json": json.dumps(config)})
    for call in (mdl.load, mdl.plan):
        with pytest.raises(LoadError, match=message) as error:
            call(NAME, use_exact_model_name=True)
        assert then in error.value.next
    assert hub.count("*/resolve/*.safetensors") == 0


def test_a_missing_package_is_named(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizers, "find_spec", lambda module: None)
    with pytest.raises(LoadError, match="compressed-tensors need a package") as error:
        mdl.load(str(saved("w4a16")))
    assert "pip install compressed-tensors" in error.value.next


def test_a_format_is_asked_for_as_the_commands_do(
    hub: LoopbackHub, saved: Callable[[str], Path], tiny_model: Callable[..., Path]
) -> None:
    hub.add_repo("Maker/Model", folder=tiny_model("llama"))
    hub.add_repo(
        "Maker/Model-W4A16",
        folder=saved("w4a16"),
        card={"base_model": "Maker/Model", "base_model_relation": "quantized"},
    )
    by_format = mdl.load("Maker/Model", format="w4a16")
    assert by_format.report.repo_id == "Maker/Model-W4A16"
    assert by_format.report.resolution["format"] == "w4a16"
    assert mdl.load("Maker/Model-W4A16").report.repo_id == "Maker/Model-W4A16"
    packed = mdl.load("Maker/Model", format="4bit", quantize_once=False)
    assert packed.report.requested["format"] == "bnb-4bit" and packed.report.quantized_on_load


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gguf:Q4_K_M", "load_in_4bit": True}, "Choose one format"),
        ({"format": "16bit", "load_in_8bit": True}, "Choose one format"),
        ({"format": "q9"}, "Unknown format"),
        ({"format": "mlx"}, "does not load mlx"),
        ({"format": "exl2:4.25"}, "does not load exl2"),
    ],
)
def test_formats_that_cannot_be_loaded_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mdl.load(NAME, **options)
