"""The examples in README, docs/ and docstrings run as they stand, against a loopback Hub.

In a block without a language, lines after `$ ` are commands and the rest is what they print;
`…` stands for any text, and sizes, times and hashes may differ. Python blocks are executed, and
`>>>` lines in docstrings too.
"""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

import mdl
from tests.hub import LoopbackHub
from tests.loader import tiny

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What the examples name: a float repository, and its mirrors where there are some.
FLOAT = {
    "meta-llama/Llama-3.1-8B-Instruct": {"gated": "manual"},
    "unsloth/Llama-3.1-8B-Instruct": {},
    "HuggingFaceTB/SmolLM2-135M-Instruct": {},
    "Qwen/Qwen2.5-0.5B-Instruct": {},
}
QUANTIZED = (
    "unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit",
    "unsloth/Qwen2.5-0.5B-Instruct-unsloth-bnb-4bit",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a fresh machine whose Hub has tiny models under the names above."""
    folder = tmp_path_factory.mktemp("world")
    model, packed = folder / "model", folder / "packed"
    tiny.save_model("llama", model)
    _save_in_4_bits(model, packed)
    with LoopbackHub() as hub:
        hub.add_user("hf_reader", "reader")
        for name, fields in FLOAT.items():
            access = {"hf_reader": "granted"} if fields else {}
            hub.add_repo(name, folder=model, access=access, **fields)
        for name in QUANTIZED:
            hub.add_repo(name, folder=packed)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MDL_"))}
        yield kept | {
            "HF_HOME": str(folder / "hf"),
            "MDL_HOME": str(folder / "mdl"),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }


def _save_in_4_bits(model: Path, folder: Path) -> None:
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    packed = transformers.AutoModelForCausalLM.from_pretrained(model, quantization_config=config)
    packed.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)


def blocks(page: Path, language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, page.read_text(), re.DOTALL | re.MULTILINE)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each `$ ` command of a session with what it is said to print."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.replace("\\\n", " ").partition("\n")
        yield command, output


def alike(text: str) -> str:
    """Without what differs from run to run: sizes, ages, hashes and the width of columns."""
    text = re.sub(r"\b\d[\d.,]*\s?([kKMGT]?i?B|s)\b", "SIZE", text)
    text = re.sub(r"\b(just now|\d+ \w+ ago)", "AGO", text)
    return re.sub(r"\b[0-9a-f]{7,64}\b", "HASH", text)


SESSIONS = [
    (page, n) for page in PAGES for n, block in enumerate(blocks(page, "")) if "$ mdl " in block
]


@pytest.mark.parametrize(("page", "n"), SESSIONS, ids=[f"{page.name}-{n}" for page, n in SESSIONS])
def test_a_session_prints_what_the_page_shows(
    page: Path, n: int, world: dict[str, str], tmp_path: Path
) -> None:
    for command, shown in commands(blocks(page, "")[n]):
        if not command.startswith("mdl ") or command.startswith(("mdl serve", "mdl daemon")):
            continue
        words = shlex.split(command, comments=True)
        # A change that a page shows is one that its reader agreed to.
        done = subprocess.run(
            words, env=world, cwd=tmp_path, text=True, check=False, input="y\n",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert "Traceback" not in done.stdout
        assert done.returncode != 2, done.stdout
        if shown.strip():
            wanted = alike(shown).replace("…", "...")
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(wanted, alike(done.stdout), flags), (
                f"$ {command}\n{done.stdout}"
            )


# The scripts of docs/training.md need TRL: tests/loader/test_trainers.py runs them.
WITH_PYTHON = [p for p in PAGES if blocks(p, "python") and p.name != "training.md"]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=[page.name for page in WITH_PYTHON])
def test_a_pages_python_runs_from_top_to_bottom(
    page: Path, world: dict[str, str], tmp_path: Path
) -> None:
    run("\n".join(blocks(page, "python")), world, tmp_path)


def run(code: str, world: dict[str, str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], env=world | {"HF_TOKEN": "hf_reader"}, cwd=folder,
        text=True, check=False, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _with_examples() -> list[str]:
    home = Path(mdl.__file__).parent
    found = [file for file in home.rglob("*.py") if ">>> " in file.read_text()]
    return [
        ".".join(file.relative_to(home.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in sorted(found)
    ]


@pytest.mark.parametrize("module", _with_examples())
def test_the_examples_in_docstrings_run(module: str, world: dict[str, str], tmp_path: Path) -> None:
    tests = doctest.DocTestFinder().find(importlib.import_module(module))
    run("".join(each.source for test in tests for each in test.examples), world, tmp_path)


NAMED = re.compile(r"`((?:mdl|tests|benchmarks|docs|demo)/[\w./-]+)`")


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    named = NAMED.findall(page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []
