"""Several ranks on one machine: one download, one mirror, the same model on each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import mdl
from mdl.loader import Quantization
from tests.hub import LoopbackHub

NAME = "Org/Name"
IDS = [[1, 5, 9, 11, 40, 7, 8, 2]]
SCRIPT = f"""
import json, os, sys, torch, mdl, mdl.loader
import torch.distributed as dist
dist.init_process_group("gloo")
options = {{}}
if sys.argv[1] == "tensor-parallel":
    from transformers.distributed import DistributedConfig
    options = {{"distributed_config": DistributedConfig(tp_size=2), "quantize_once": False}}
elif sys.argv[1] == "fsdp":
    packed = mdl.loader.Quantization(storage="bfloat16")
    options = {{"load_in_4bit": True, "quantization": packed, "quantize_once": False}}
else:
    options = {{"load_in_4bit": True}}
loaded = mdl.load({NAME!r}, **options)
model = loaded.model
if sys.argv[1] == "fsdp":
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy
    model = FullyShardedDataParallel(
        model.requires_grad_(False), device_id=torch.device("cpu"), use_orig_params=False,
        auto_wrap_policy=ModuleWrapPolicy({{type(model.model.layers[0])}}),
    )
held = sum(p.numel() * p.element_size() for p in model.parameters())
with torch.no_grad():
    logits = model(torch.tensor({IDS})).logits
if hasattr(logits, "full_tensor"):
    logits = logits.full_tensor()
everyone = [None, None]
dist.all_gather_object(everyone, (loaded.report.folder, loaded.report.mirror,
                                  loaded.report.loaded_by, logits.float().tolist(), held))
if dist.get_rank() == 0:
    with open(sys.argv[2], "w") as out:
        json.dump(everyone, out)
dist.barrier()
dist.destroy_process_group()
"""


def two_ranks(kind: str, env: dict[str, str], tmp_path: Path) -> list[Any]:
    """Run the script with torchrun on two CPU ranks; what each rank found."""
    script, out = tmp_path / "ranks.py", tmp_path / "out.json"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script), kind, str(out)],
        env={**env, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return list(json.loads(out.read_text()))


@pytest.fixture
def served(hub: LoopbackHub, tiny_model: Callable[..., Path]) -> LoopbackHub:
    hub.add_repo(NAME, folder=tiny_model("llama"))
    return hub


def test_two_ranks_download_once_and_share_one_mirror(
    served: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> None:
    first, second = two_ranks("4bit", hub_env, tmp_path)
    assert served.count("/cdn/*", "GET") == 1
    assert first[1] == second[1] and Path(first[1]).is_dir()
    assert first[3] == second[3]


def test_tensor_parallel_is_transformers_own(
    served: LoopbackHub,
    hub_env: dict[str, str],
    tmp_path: Path,
    tiny_model: Callable[..., Path],
) -> None:
    first, second = two_ranks("tensor-parallel", hub_env, tmp_path)
    assert first[2] == second[2] == "transformers"
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype="auto")
    with torch.inference_mode():
        expected = model(torch.tensor(IDS)).logits.float()
    for rank in (first, second):
        assert torch.allclose(torch.tensor(rank[3]), expected, atol=0.02)


def test_packed_weights_are_divided_by_fsdp(
    served: LoopbackHub,
    hub_env: dict[str, str],
    tmp_path: Path,
    tiny_model: Callable[..., Path],
) -> None:
    """4-bit weights stored as bfloat16: half of them on each rank, and the same answer."""
    first, second = two_ranks("fsdp", hub_env, tmp_path)
    whole = mdl.load(
        str(tiny_model("llama")), load_in_4bit=True, quantization=Quantization(storage="bfloat16")
    )
    with torch.no_grad():
        expected = whole.model(torch.tensor(IDS)).logits.float()
    held = sum(p.numel() * p.element_size() for p in whole.model.parameters())
    for rank in (first, second):
        assert torch.equal(torch.tensor(rank[3]), expected)
        assert rank[4] == pytest.approx(held / 2, rel=0.01)
