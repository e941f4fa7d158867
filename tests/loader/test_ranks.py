"""Several ranks on one machine: one download, one local copy, the same model on each."""

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
from mdl.loader.verify import read_report, verify_report
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
waits = sys.argv[1] == "4bit-rank-1-first"
if waits and dist.get_rank() == 0:
    dist.barrier()
loaded = mdl.load({NAME!r}, **options)
if waits and dist.get_rank() == 1:
    dist.barrier()
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
dist.all_gather_object(everyone, (loaded.report.folder, loaded.report.local_copy,
                                  loaded.report.loaded_by, logits.float().tolist(), held,
                                  loaded.report.quantized_on_load))
if dist.get_rank() == 0:
    with open(sys.argv[2], "w") as out:
        json.dump(everyone, out)
dist.barrier()
dist.destroy_process_group()
"""


def two_ranks(kind: str, env: dict[str, str], tmp_path: Path) -> list[Any]:
    """Run the script with torchrun on two CPU ranks; returns what each reported."""
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


@pytest.mark.parametrize("kind", ["4bit", "4bit-rank-1-first"])
def test_two_ranks_share_one_download_and_one_local_copy(
    served: LoopbackHub, hub_env: dict[str, str], tmp_path: Path, kind: str
) -> None:
    """Whichever rank comes first; transformers would save weights on rank 0 only."""
    first, second = two_ranks(kind, hub_env, tmp_path)
    assert served.count("/cdn/*", "GET") == 1
    assert first[1] == second[1] and Path(first[1]).is_dir()
    assert first[3] == second[3]
    assert {first[5], second[5]} == {True, False}, "one quantizes, the other reads its copy"


def test_tensor_parallelism_goes_through_transformers(
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


def test_fsdp_shards_packed_weights(
    served: LoopbackHub,
    hub_env: dict[str, str],
    tmp_path: Path,
    tiny_model: Callable[..., Path],
) -> None:
    """4-bit weights stored as bfloat16: half of them on each rank, and the same logits."""
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


TRAINING = f"""
import json, sys, torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import Trainer, TrainingArguments
from mdl import FastLanguageModel

accelerator = Accelerator()
model, tokenizer = FastLanguageModel.from_pretrained({NAME!r}, use_gradient_checkpointing=False)
report = model.mdl_report
model = FastLanguageModel.get_peft_model(model, r=4)
before = {{name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}}
texts = [[1, 5, n, 11, 40, 7] for n in range(20, 52)]
rows = [{{"input_ids": ids, "labels": ids}} for ids in texts]
arguments = TrainingArguments(
    sys.argv[1], max_steps=4, per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True,
    report_to="none", disable_tqdm=True, logging_steps=1, save_strategy="no", seed=3,
)
trainer = Trainer(model, arguments, train_dataset=rows)
trainer.train()
after = {{name: p.detach() for name, p in model.named_parameters() if p.requires_grad}}
losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
if accelerator.is_main_process:
    report.save(sys.argv[1] + "/report.json")
found = gather_object([{{
    "ranks": accelerator.num_processes,
    "kind": accelerator.distributed_type.value,
    "folder": report.folder,
    "local_copy": report.local_copy,
    "fingerprint": report.fingerprint,
    "quantized": report.quantized_on_load,
    "start": sum(float(p.double().sum()) for p in before.values()),
    "end": sum(float(p.double().sum()) for p in after.values()),
    "moved": any(not torch.equal(before[name], after[name]) for name in after),
    "losses": losses,
}}])
if accelerator.is_main_process:
    with open(sys.argv[1] + "/ranks.json", "w") as out:
        json.dump(found, out)
accelerator.end_training()
"""


def test_accelerate_launch_trains_on_two_ranks(
    served: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> None:
    """`accelerate launch --cpu` starts one process; its multi-GPU launcher, set to use the CPU,
    starts two, which use gloo."""
    script, run = tmp_path / "train.py", tmp_path / "run"
    script.write_text(TRAINING)
    run.mkdir()
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    options = "--num_processes=2 --num_machines=1 --mixed_precision=no --dynamo_backend=no"
    done = subprocess.run(
        [*launch, *options.split(), "--main_process_port=0", str(script), str(run)],
        env={
            **hub_env,
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path.cwd()),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:8000]
    first, second = json.loads((run / "ranks.json").read_text())
    for rank in (first, second):
        assert (rank["ranks"], rank["kind"]) == (2, "MULTI_CPU")
        assert rank["moved"] and rank["local_copy"] == first["local_copy"]
    assert served.count("/cdn/*", "GET") == 1
    assert {first["quantized"], second["quantized"]} == {True, False}
    assert first["start"] == second["start"] and first["end"] == second["end"]
    assert first["losses"][-1] < first["losses"][0]
    assert sorted(path.name for path in run.glob("*.json")) == ["ranks.json", "report.json"]
    report = read_report(run / "report.json")
    assert report.commit == served.repos[NAME].head().id
    assert not verify_report(report).problems
