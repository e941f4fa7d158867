"""Completion as bash sees it, and where `mdl completion install` writes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Complete = Callable[[str], list[str]]


@pytest.fixture
def environment(hub_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A cache with a model and a dataset, and `mdl` on the PATH."""
    root = Path(hub_env["HF_HOME"]) / "hub"
    (root / "models--Org--Name" / "snapshots" / COMMIT).mkdir(parents=True)
    (root / "models--Org--Name" / "refs" / "pr").mkdir(parents=True)
    (root / "models--Org--Name" / "refs" / "main").write_text(COMMIT)
    (root / "models--Org--Name" / "refs" / "pr" / "1").write_text(COMMIT)
    (root / "models--Org--Na\x1bme" / "snapshots").mkdir(parents=True)
    (root / "datasets--Org--Rows" / "snapshots").mkdir(parents=True)
    program = tmp_path / "bin" / "mdl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mdl "$@"\n')
    program.chmod(0o755)
    return {**hub_env, "PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.fixture
def complete(environment: dict[str, str]) -> Complete:
    """What bash offers behind a line."""

    def ask(line: str) -> list[str]:
        script = (
            'eval "$(mdl completion bash)"; compopt() { :; }; COMP_LINE="$1"; COMP_POINT=${#1}\n'
            "_mdl_completion mdl; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        done = subprocess.run(
            ["bash", "-c", script, "bash", line],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.split()

    return ask


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mdl cac", ["cache"]),
        ("mdl cache rm o", ["Org/Name"]),
        ("mdl cache show dataset/", ["dataset/Org/Rows"]),
        ("mdl cache rm Org/Name@", ["main", "pr/1", COMMIT]),
        ("mdl pull org/name --revision p", ["pr/1"]),
        ("mdl resolve org/n", ["Org/Name"]),
        ("mdl resolve meta-llama/llama-3.1-8b-i", ["meta-llama/Llama-3.1-8B-Instruct"]),
        ("mdl cache ls -f type=m", ["model"]),
        ("mdl cache ls -f 'acc", ["accessed>", "accessed<"]),
        ("mdl cache ls --sort size:", ["asc", "desc"]),
        ("mdl completion z", ["zsh"]),
        ("mdl cache rm nobody/", []),
    ],
)
def test_bash_is_offered_commands_names_revisions_and_filters(
    complete: Complete, line: str, offered: list[str]
) -> None:
    assert complete(line) == offered


def test_names_come_from_the_index_where_there_is_one(
    complete: Complete, environment: dict[str, str], mdl: Run
) -> None:
    assert mdl("cache", "ls").code == 0
    root = Path(environment["HF_HOME"]) / "hub"
    (root / "models--Org--Name").rename(root / "models--Org--Later")
    assert complete("mdl cache rm org/") == ["Org/Name"]
    assert complete("mdl cache rm Org/Later@") == ["main", "pr/1", COMMIT]


def test_a_broken_configuration_offers_nothing(
    complete: Complete, environment: dict[str, str]
) -> None:
    environment["HF_ENDPOINT"] = "nowhere"
    assert complete("mdl cache rm o") == []


def test_completing_imports_no_more_than_a_listing(environment: dict[str, str]) -> None:
    ask = {**environment, "_MDL_COMPLETE": "bash_complete", "COMP_LINE": "mdl resolve org/n"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mdl"],
        env=ask, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["plain,Org/Name"]
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "sqlite3" in modules
    assert modules.isdisjoint({"sqlalchemy", "alembic", "huggingface_hub", "torch", "subprocess"})


@pytest.mark.parametrize(
    ("shell", "place"),
    [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", ".config/fish/completions/mdl.fish")],
)
def test_completion_is_installed_once_and_keeps_what_is_there(
    mdl: Run, tmp_path: Path, shell: str, place: str
) -> None:
    home = tmp_path / "person"
    file = home / place
    env = {"HOME": str(home), "SHELL": f"/usr/bin/{shell}"}
    home.mkdir()
    if shell != "fish":
        file.write_text("alias l=ls")
    tried = mdl("completion", "install", "--dry-run", **env)
    assert tried.code == 0 and str(file) in tried.out and "mdl" in tried.out
    assert mdl("completion", "install", **env).code == 2, "nobody said yes"
    assert not file.exists() or file.read_text() == "alias l=ls"
    assert mdl("completion", "install", "--yes", **env).code == 0
    text = file.read_text()
    assert "mdl" in text and (shell == "fish" or text.startswith("alias l=ls\n\n# mdl completion"))
    again = mdl("completion", "install", "--yes", "--json", **env)
    assert (again.json["changed"], file.read_text()) == (False, text)


def test_an_unknown_shell_is_named(mdl: Run) -> None:
    ran = mdl("completion", "install", SHELL="/bin/tcsh")
    assert (ran.code, "'tcsh'" in ran.err, "--shell bash" in ran.err) == (2, True, True)
