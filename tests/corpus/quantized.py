"""Repositories whose weights are quantized, or whose config.json says that they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as t

from tests.corpus import building as b
from tests.corpus.shape import shape
from tests.loader import tiny

BNB_4BIT: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def claims(folder: Path, **table: Any) -> None:
    """A float Llama whose config.json says that it is quantized so."""
    b.llama(folder)
    b.config(folder, quantization_config=table)


def packed(folder: Path, **settings: Any) -> None:
    """A Llama that bitsandbytes quantized and transformers saved."""
    b.llama(folder)
    model = t.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=t.BitsAndBytesConfig(**settings)
    )
    (folder / b.SINGLE).unlink()
    model.save_pretrained(folder)


@shape("unsloth/Llama-3.2-1B-Instruct-bnb-4bit: 4-bit weights", format="bnb-4bit")
def bnb_4bit(folder: Path) -> None:
    packed(folder, **BNB_4BIT, bnb_4bit_use_double_quant=True,
           bnb_4bit_compute_dtype=torch.bfloat16)  # fmt: skip


@shape("bitsandbytes' other settings: fp4, single quantization", format="bnb-4bit")
def bnb_fp4(folder: Path) -> None:
    packed(folder, load_in_4bit=True, bnb_4bit_quant_type="fp4")


@shape("unsloth/*-unsloth-bnb-4bit: modules left out by name", format="bnb-4bit")
def bnb_dynamic(folder: Path) -> None:
    skipped = ["lm_head", "model.layers.0.mlp.up_proj"]
    packed(folder, **BNB_4BIT, llm_int8_skip_modules=skipped)


@shape("LLM.int8() checkpoints: weights, SCB and weight_format", format="8bit")
def bnb_8bit(folder: Path) -> None:
    packed(folder, load_in_8bit=True)


@shape(
    "unsloth#105, unsloth#1601, open-instruct#149: a merge that kept quantization_config",
    says="bnb-4bit.*bfloat16",
    format=None,
)
def leftover_bnb_4bit(folder: Path) -> None:
    b.llama(folder)
    b.bnb(folder)


@shape(
    "unsloth#1601: the same, asked for in 16 bits",
    options={"load_in_16bit": True},
    says="bnb-4bit",
    format=None,
)
def leftover_asked_for_in_16bit(folder: Path) -> None:
    leftover_bnb_4bit(folder)


@shape(
    "unsloth#1601: the same through transformers' own load",
    options={"attn_implementation": "eager"},
    says="bnb-4bit",
    format=None,
)
def leftover_the_other_way(folder: Path) -> None:
    leftover_bnb_4bit(folder)


@shape("merges that kept load_in_8bit", says="8bit", format=None)
def leftover_bnb_8bit(folder: Path) -> None:
    b.llama(folder)
    b.bnb(folder, load_in_4bit=False, load_in_8bit=True)


@shape(
    "4-bit weights whose config.json lost its quantization_config",
    mdl="refuses",
    because="packed bytes are not weights",
    says="4.bit",
    format=None,
)
def packed_and_silent(folder: Path) -> None:
    bnb_4bit(folder)
    b.config(folder, quantization_config=...)


@shape("transformers: quantization_config null")
def no_quantization(folder: Path) -> None:
    b.llama(folder)
    b.config(folder, quantization_config=None)


@shape("quantization_config {} (a tool that emptied it)", says="quant")
def empty_quantization(folder: Path) -> None:
    claims(folder)


@shape(
    "TheBloke/*-GPTQ: optimum and gptqmodel are not installed",
    says="pip install.*gptqmodel",
    format="gptq",
)
def gptq(folder: Path) -> None:
    claims(folder, quant_method="gptq", bits=4, group_size=128, desc_act=True, sym=True)


@shape(
    "Qwen/Qwen2.5-7B-Instruct-AWQ: gptqmodel is not installed",
    says="pip install.*gptqmodel",
    format="awq",
)
def awq(folder: Path) -> None:
    claims(folder, quant_method="awq", bits=4, group_size=128, version="gemm", zero_point=True)


@shape(
    "mobiuslabsgmbh/*-HQQ: transformers leaves random numbers in their place",
    mdl="refuses",
    because="transformers 5 has no code that reads them",
    says="does not load stored HQQ",
    format="hqq",
)
def hqq(folder: Path) -> None:
    claims(folder, quant_method="hqq", quant_config={"weight_quant_params": {"nbits": 4}},
           skip_modules=["lm_head"])  # fmt: skip


@shape("pytorch/*-INT4: torchao is not installed", says="pip install.*torchao", format="torchao")
def torchao(folder: Path) -> None:
    quant_type = {"default": {"_type": "Int4WeightOnlyConfig", "_version": 1, "_data": {}}}
    claims(folder, quant_method="torchao", quant_type=quant_type)


@shape("ISTA-DASLab/*-AQLM: aqlm is not installed", says="pip install.*aqlm", format=None)
def aqlm(folder: Path) -> None:
    claims(folder, quant_method="aqlm", in_group_size=8, nbits_per_codebook=16)


@shape("amd/*-Quark: quark is not installed", says="pip install.*quark", format=None)
def quark(folder: Path) -> None:
    claims(folder, quant_method="quark", export={}, global_quant_config={})


@shape(
    "nvidia/Llama-3.1-8B-Instruct-FP4: quant_method modelopt, which transformers skips",
    mdl="refuses",
    because="the reference warns and takes packed bytes for weights",
    says="modelopt",
    format=None,
)
def modelopt(folder: Path) -> None:
    claims(folder, quant_method="modelopt", quant_algo="NVFP4")
    packed_bytes(folder)


@shape(
    "turboderp/*-exl2: quant_method exl2, which transformers skips",
    mdl="refuses",
    because="the reference warns and takes packed bytes for weights",
    says="exl2",
    format="exl2",
)
def exl2(folder: Path) -> None:
    claims(folder, quant_method="exl2", bits=4.25, head_bits=6)
    packed_bytes(folder)


def packed_bytes(folder: Path) -> None:
    found = b.tensors(folder)
    name = "model.layers.0.mlp.up_proj.weight"
    found[name] = torch.zeros(64, 32, dtype=torch.uint8)
    b.write(folder, {**found, f"{name}_scale": torch.ones(64)})


@shape(
    "a quant_method that no library knows yet",
    mdl="refuses",
    because="the reference warns and takes what is there for float weights",
    says="brandnew",
    format=None,
)
def unknown_method(folder: Path) -> None:
    claims(folder, quant_method="brandnew", bits=3)
    packed_bytes(folder)


@shape(
    "an unknown quant_method over float weights: nothing proves that they are the model's",
    says="brandnew",
    mdl="refuses",
    format=None,
    because="what an unknown method left in a file is not known",
)
def unknown_method_over_floats(folder: Path) -> None:
    claims(folder, quant_method="brandnew", bits=3)


@shape("mlx-community/*-4bit: quantization, copied without quant_method", says="MLX", format="mlx")
def mlx(folder: Path) -> None:
    b.llama(folder)
    table = {"group_size": 64, "bits": 4}
    b.config(folder, quantization=table, quantization_config=table)
    packed_bytes(folder)


@shape(
    "older mlx-community repositories: quantization alone",
    mdl="refuses",
    because="the reference takes packed bytes for weights",
    says="MLX",
    format="mlx",
)
def mlx_of_old(folder: Path) -> None:
    b.llama(folder)
    b.config(folder, quantization={"group_size": 64, "bits": 4})
    packed_bytes(folder)


@shape(
    "mlx-lm#223: dequantized and fused, quantization left in config.json", says="MLX", format=None
)
def leftover_mlx(folder: Path) -> None:
    b.llama(folder)
    table = {"group_size": 64, "bits": 4}
    b.config(folder, quantization=table, quantization_config=table)


@shape(
    "deepseek-ai/DeepSeek-V3's kind: fp8 in blocks; dequantized where no GPU has it",
    options={"allow_dequantize": True},
    format="fp8",
)
def fp8(folder: Path) -> None:
    tiny.save_fp8_model(folder)


@shape(
    "vision models: quantization_config inside text_config, over floats",
    auto="AutoModelForImageTextToText",
    format=None,
    says="bnb-4bit",
)
def nested_quantization(folder: Path) -> None:
    tiny.save_model("gemma3", folder)
    table = json.loads((folder / "config.json").read_text())
    table["text_config"]["quantization_config"] = {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(table))


@shape(
    "vision models: an MLX quantization inside text_config",
    auto="AutoModelForImageTextToText",
    format="mlx",
    says="MLX",
    mdl="refuses",
    because="packed bytes are not weights",
)
def nested_mlx(folder: Path) -> None:
    tiny.save_model("gemma3", folder)
    table = json.loads((folder / "config.json").read_text())
    table["text_config"]["quantization"] = {"group_size": 64, "bits": 4}
    (folder / "config.json").write_text(json.dumps(table))
    found = b.tensors(folder)
    name = next(key for key in found if key.endswith("up_proj.weight"))
    b.write(folder, {**found, name: torch.zeros(64, 8, dtype=torch.uint8)})
