"""Programs as people have them: transformers, PEFT, torchrun, `hf`, and one that substitutes."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hub import LoopbackHub
from tests.loader import tiny
from tests.observe.conftest import MIRROR, MODEL, Machine

_LOADS = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(type(model).__name__, len(AutoTokenizer.from_pretrained(sys.argv[1])))
"""
# What Unsloth does: another repository than the one that was named, without a word.
_SUBSTITUTES = f"""
from transformers import AutoConfig
import transformers
TABLE = {{{MODEL.lower()!r}: {MIRROR!r}}}
class FastLanguageModel:
    @staticmethod
    def from_pretrained(name, load_in_4bit=True, use_exact_model_name=False):
        if load_in_4bit and not use_exact_model_name:
            name = TABLE.get(name.lower(), name)
        return transformers.AutoModelForCausalLM.from_pretrained(name)
"""


def _add(machine: Machine, name: str) -> Path:
    folder = machine.folder / "made" / name
    folder.mkdir(parents=True)
    tiny.save_model("llama", folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return machine.add(name, files)


def _lines(text: str) -> list[str]:
    """Lines without progress bars."""
    return [line for line in re.split(r"[\r\n]+", text) if line and "it/s" not in line]


def test_transformers(machine: Machine) -> None:
    _add(machine, MODEL)
    script = machine.write("loads.py", _LOADS)
    plain = subprocess.run([sys.executable, script, MODEL], env=machine.env, capture_output=True,
                           text=True, check=True)  # fmt: skip
    ran = machine.run(sys.executable, script, MODEL, options=(f"--expect={MODEL}=exact", "-q"))
    assert (ran.code, ran.out) == (0, plain.stdout)
    assert _lines(ran.err)[-1:] == _lines(plain.stderr)[-1:]
    (load,) = ran.report["loads"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file["path"] for file in load["files"]
    }
    assert load["process"]["command"].endswith(f"loads.py {MODEL}")


def test_an_adapter_and_its_base(machine: Machine) -> None:
    _add(machine, MODEL)
    code = (
        "import peft, transformers, sys\n"
        "base = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "config = peft.LoraConfig(target_modules=['q_proj'], task_type='CAUSAL_LM')\n"
        "peft.get_peft_model(base, config).save_pretrained('adapter')"
    )
    subprocess.run([sys.executable, "-c", code, MODEL], env=machine.env, cwd=machine.folder,
                   check=True, capture_output=True)  # fmt: skip
    made = machine.folder / "adapter"
    machine.add("me/adapter", {path.name: path.read_bytes() for path in made.iterdir()})
    ran = machine.python("import peft; peft.AutoPeftModelForCausalLM.from_pretrained('me/adapter')")
    formats = {load["repo_id"]: load["format"] for load in ran.report["loads"]}
    assert formats == {MODEL: "16bit", "me/adapter": "adapter"}, ran.err


def test_a_substitution_by_a_library(machine: Machine) -> None:
    _add(machine, MODEL)
    _add(machine, MIRROR)
    machine.write("fast.py", _SUBSTITUTES)
    call = f"import fast; fast.FastLanguageModel.from_pretrained({MODEL!r}"
    options = (f"--expect={MODEL}=exact",)
    ran = machine.python(f"{call})", options=options, PYTHONPATH=str(machine.folder))
    assert ran.code == 6
    assert list(ran.opened) == [MIRROR]
    exact = machine.python(f"{call}, use_exact_model_name=True)", options=options,
                           PYTHONPATH=str(machine.folder))  # fmt: skip
    assert exact.code == 0, exact.err


def test_two_ranks_of_torchrun(machine: Machine) -> None:
    """Each rank loads another model; data loader workers, which are spawned, a third."""
    for name in ("org/one", "org/two", "org/three"):
        _add(machine, name)
    script = machine.write("ranks.py", f"""
import os, glob, torch
from safetensors import safe_open
from transformers import AutoConfig
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 2
    def __getitem__(self, row):
        folder = {str(machine.cache.root)!r} + "/models--org--three/snapshots/*/model.safetensors"
        with safe_open(glob.glob(folder)[0], "pt") as file: return len(file.keys())
if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    from transformers import AutoModelForCausalLM
    AutoModelForCausalLM.from_pretrained(["org/one", "org/two"][rank])
    if rank == 1:
        list(torch.utils.data.DataLoader(Rows(), num_workers=1, multiprocessing_context="spawn"))
""")  # fmt: skip
    ran = machine.run(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        script, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert sorted(ran.opened) == ["org/one", "org/three", "org/two"]


def test_hf_downloads_and_what_it_was_refused(machine: Machine, hub: LoopbackHub) -> None:
    hub.add_repo("org/model", files={"config.json": "{}", "model.safetensors": b"x" * 100})
    hub.add_repo("org/gated", files={"config.json": "{}"}, gated="manual")
    hf = str(Path(sys.executable).with_name("hf"))
    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"}
    ran = machine.run(hf, "download", "org/model", **online)
    assert ran.code == 0, ran.err
    (download,) = ran.report["downloads"]
    assert (download["repo_id"], download["files"]) == ("org/model", 2)
    plain = subprocess.run([hf, "download", "org/model"], env=machine.env | online,
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert ran.out == plain.stdout
    refused = machine.run(hf, "download", "org/gated", **online)
    assert refused.code == refused.report["exit_code"] != 0
    assert "org/gated" in [each["repo_id"] for each in refused.report["requested"]]


def test_killed_at_random_moments(machine: Machine) -> None:
    """Whatever is killed, when: the next run is right, and no folder or process stays."""
    snapshot = _add(machine, MODEL)
    temporary = machine.folder / "tmp"
    temporary.mkdir()
    machine.env |= {"TMPDIR": str(temporary), "XDG_RUNTIME_DIR": ""}
    picks = random.Random(18)
    loop = f"while :; do cat {snapshot}/model.safetensors > /dev/null; done"
    for _ in range(8):
        run = machine.popen("run", "--report=killed.json", "--", "timeout", "5", "sh", "-c", loop)
        time.sleep(picks.uniform(0.0, 0.6))
        run.kill()
        run.wait()
    ran = machine.run("cat", f"{snapshot}/model.safetensors")
    assert ran.opened == {MODEL: ["model.safetensors"]}
    assert list(temporary.iterdir()) == []
    if (machine.folder / "killed.json").exists():
        json.loads((machine.folder / "killed.json").read_text())


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system")
def test_a_cache_on_another_disk(machine: Machine) -> None:
    hub = machine.cache.root
    words = ["mount", "-t", "tmpfs", "none", str(hub)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    try:
        snapshot = machine.add(MODEL)
        subprocess.run(["mount", "-o", "remount,ro", str(hub)], check=True)
        ran = machine.run("cat", f"{snapshot}/model.safetensors")
    finally:
        subprocess.run(["umount", "-l", str(hub)], check=True)
    assert ran.opened == {MODEL: ["model.safetensors"]}
