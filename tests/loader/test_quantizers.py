"""GPTQ, AWQ and torchao, quantized by their own libraries: the same model as transformers loads.

`make test-quantizers` runs this in an environment of its own: GPT-QModel wants another torch than
the tested set has and compiles kernels at first use, and torchao makes every import slower.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import transformers

import mdl
from tests.loader import stored, tiny

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def save_torchao(folder: Path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig

    source = folder / "float"
    stored.float_llama().save_pretrained(source)
    settings = transformers.TorchAoConfig(Int8WeightOnlyConfig())
    quantized = transformers.AutoModelForCausalLM.from_pretrained(
        source, quantization_config=settings
    )
    quantized.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)


def save_gptqmodel(folder: Path, method: str) -> None:
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its own number is too small for two cores
    from gptqmodel import GPTQModel, QuantizeConfig

    sizes = {**tiny.SMALL, "num_key_value_heads": 4}
    source = folder / "float"
    torch.manual_seed(11)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    model.to(torch.bfloat16).save_pretrained(source)
    words = tiny.tokenizer()
    words.save_pretrained(source)
    ids = words(tiny.TEXT).input_ids[:100]
    examples = [{"input_ids": ids[i:], "attention_mask": [1] * len(ids[i:])} for i in range(4)]
    settings = QuantizeConfig(bits=4, group_size=32, quant_method=method)
    quantized = GPTQModel.load(str(source), settings, device="cpu")
    quantized.quantize(examples, batch_size=1)
    quantized.save(str(folder))
    words.save_pretrained(folder)


@pytest.mark.usefixtures("hub_env")
@pytest.mark.parametrize("method", ["gptq", "awq", "torchao"])
def test_the_model_is_the_one_that_transformers_loads(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # GPT-QModel writes its logs where it is
    if method == "torchao":
        save_torchao(tmp_path)
    else:
        save_gptqmodel(tmp_path, method)
    planned = mdl.plan(str(tmp_path))
    loaded = mdl.load(str(tmp_path))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    stored.check_same(loaded.model, theirs)
    ids = torch.tensor([[1, 5, 9]])
    assert torch.equal(loaded.model(ids).logits, theirs(ids).logits)
    assert loaded.report.parameters["total"] == planned.parameters
    assert planned.dequantized is None
    in_use = loaded.report.memory["weights"]
    assert abs(planned.memory.weights - in_use) < 0.1 * in_use
