"""Mixtures of experts packed one by one: what transformers cannot load is refused, and no more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from bitsandbytes.functional import quantize_4bit
from safetensors.torch import load_file, save_file

import mdl
from mdl.errors import LoadError
from mdl.formats import describe_folder, find_apart, recognize
from mdl.formats.experts import STACKED
from tests.hub import LoopbackHub
from tests.loader import tiny

FOUR = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "bfloat16", "llm_int8_skip_modules": ["lm_head"]}  # fmt: skip
EIGHT = {"quant_method": "bitsandbytes", "load_in_8bit": True,
         "llm_int8_skip_modules": ["lm_head"]}  # fmt: skip
Tensors = dict[str, torch.Tensor]


def packed(name: str, weight: torch.Tensor, bits: int) -> Tensors:
    """A weight as bitsandbytes saves it."""
    if bits == 8:
        scale = weight.float().abs().amax(1)
        rows = (weight.float() * 127 / scale[:, None]).round().to(torch.int8)
        return {name: rows, f"{name.removesuffix('weight')}SCB": scale}
    rows, state = quantize_4bit(weight.contiguous(), quant_type="nf4")
    return {name: rows, **{f"{name}.{k}": v for k, v in state.as_dict(packed=True).items()}}


def of_unsloths_class(name: str, tensor: torch.Tensor) -> Tensors:
    """A tensor of gpt-oss in the names of Unsloth's class, which has a linear layer an expert."""
    if ".router." in name:
        return {name.replace(".router.", ".router.linear."): tensor}
    if not name.endswith(("_proj", "_proj_bias")):
        return {name: tensor}
    stem, is_bias = name.removesuffix("_bias"), name.endswith("_bias")
    found = {}
    for n, expert in enumerate(tensor):
        one = {f"{stem}s.{n}.bias": expert.clone()}
        found |= one if is_bias else packed(f"{stem}s.{n}.weight", expert.T, 4)
    return found


def mixture(kind: str, folder: Path, *, bits: int = 4, experts: bool = True) -> Path:
    """A tiny mixture whose linear layers are packed, as transformers 4 or Unsloth saved it;
    without `experts` those stay in floats."""
    if kind == "gpt-oss":
        small = {**tiny.SMALL, "intermediate_size": 64, "num_hidden_layers": 1}
        config = transformers.GptOssConfig(**small, head_dim=16, num_local_experts=2,
                                           num_experts_per_tok=1)  # fmt: skip
        torch.manual_seed(7)
        transformers.GptOssForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
    else:
        tiny.save_model(kind, folder)
    tensors: Tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        is_expert = ".experts." in name
        if kind == "gpt-oss" and experts and (is_expert or ".router." in name):
            tensors |= of_unsloths_class(name, tensor)
        elif tensor.ndim == 2 and ((is_expert and experts) or "_proj.weight" in name):
            tensors |= packed(name, tensor, bits) if experts or not is_expert else {name: tensor}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    table = json.loads((folder / "config.json").read_text())
    table["quantization_config"] = FOUR if bits == 4 else EIGHT
    (folder / "config.json").write_text(json.dumps(table))
    return folder


def loads_in_transformers(folder: Path) -> bool:
    """Whether transformers gives the weights of the file to every expert."""
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True
        )
    except (RuntimeError, ValueError):
        return False
    stacked = [p for name, p in model.named_parameters() if ".experts." in name and p.ndim > 1]
    return not info["missing_keys"] and all(float(p.detach().abs().max()) < 8 for p in stacked)


@pytest.mark.parametrize(
    ("kind", "bits", "experts"),
    [
        ("gpt-oss", 4, True),
        ("gpt-oss", 4, False),
        ("qwen3-moe", 4, True),
        ("qwen3-moe", 4, False),
        ("qwen3-moe", 8, True),
        ("mixtral", 4, True),
        ("mixtral", 4, False),
    ],
)
def test_only_what_transformers_cannot_load_is_refused(
    kind: str, bits: int, experts: bool, tmp_path: Path
) -> None:
    folder = mixture(kind, tmp_path, bits=bits, experts=experts)
    config = json.loads((folder / "config.json").read_text())
    refused = find_apart(config, load_file(folder / "model.safetensors")) is not None
    assert refused is not loads_in_transformers(folder)
    assert refused is experts
    seen = recognize(describe_folder(folder))
    assert ("transformers" in seen.runtimes) is not refused, seen
    if refused:
        with pytest.raises(LoadError, match="packed one by one"):
            mdl.load(str(folder))
    else:
        assert mdl.load(str(folder)).report.parameters["quantized"]


@pytest.mark.usefixtures("hub_env")
def test_the_refusal_comes_before_the_weights(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = mixture("gpt-oss", tmp_path / "single")
    hub.add_repo("Org/Single", folder=folder)
    shards, shard = tmp_path / "shards", "model-00001-of-00001.safetensors"
    shutil.copytree(folder, shards)
    (shards / "model.safetensors").rename(shards / shard)
    index = {"weight_map": dict.fromkeys(load_file(shards / shard), shard)}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.add_repo("Org/Shards", folder=shards)
    weights = (shards / shard).stat().st_size
    for name in ("Org/Single", "Org/Shards"):
        for act in (mdl.load, mdl.plan):
            with pytest.raises(LoadError) as caught:
                act(name, load_in_4bit=True)
            assert caught.value.details["runtimes"] == ["unsloth"]
    assert hub.sent < weights
    assert mdl.pull("Org/Shards", exact=True).path is not None


def test_the_types_that_are_listed_are_stacked() -> None:
    """By transformers' own rules, for those that its checkpoints have in pieces."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    def merged(kind: str) -> bool:
        rules = get_checkpoint_conversion_mapping(kind) or ()
        return any("experts.*." in p for rule in rules for p in rule.source_patterns)

    pieces = ("deepseek_v3", "glm4_moe", "mixtral", "olmoe", "qwen2_moe", "qwen3_next")
    assert all(merged(kind) and kind in STACKED for kind in pieces)
    assert not merged("gpt_oss")
    assert not merged("llama")
