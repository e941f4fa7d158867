"""What a person sees at 60, 80, 120 and 200 columns, held against files; `UPDATE_GOLDEN=1` writes.

A line wider than its terminal may be a sentence, never a row of a table.
"""

import io
import os
import re
import sys
import time
from pathlib import Path

import pytest

from mdl.cli.entry import run
from mdl.formatting import shown_width
from tests.cli.test_streams import on_a_terminal
from tests.hub import LoopbackHub

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = (60, 80, 120, 200)
COMMANDS = {
    "ls": "cache ls",
    "ls-revisions": "cache ls -r",
    "ls-large": "cache ls -f size>10KB --sort size",
    "tree": "cache ls --tree",
    "show": "cache show Org/Small",
    "du": "cache du",
    "prune": "cache prune --unused-for 90d --dry-run",
    "prune-verbose": "cache prune --unused-for 90d --dry-run --verbose",
    "normalize": "cache normalize --dry-run",
    "pins": "cache pin",
    "catalog": "catalog ls --source user",
    "sources": "catalog ls --sources",
    "resolve": "resolve meta-llama/Llama-3.1-8B-Instruct --4bit --offline",
    "config": "config show cache.max_size",
    "unknown": "cache show Org/Smal",
}
DAY = 86400
LONG = "unsloth/DeepSeek-R1-Distill-Qwen-32B-unsloth-bnb-4bit-with-a-name-that-does-not-end-soon"
REPOS = [
    ("models", "Org/Small", 3, 4_000),
    ("models", "org/small", 40, 4_000),
    ("models", LONG, 400, 120_000),
    ("models", "模型/大语言模型", 200, 30_000),
    ("datasets", "Org/Rows", 12, 900),
]


class Terminal(io.StringIO):
    """A stream that a person reads."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def seen(
    hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An environment in which only the terminal's width differs; returns the cache's root."""
    root = Path(hub_env["HF_HOME"]) / "hub"
    for kind, name, days, size in REPOS:
        at = time.time() - days * DAY - 3600
        commit = f"{days:040x}"
        folder = root / f"{kind}--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (folder / "blobs").mkdir()
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
        for file in ("config.json", "model.safetensors"):
            blob = folder / "blobs" / f"{days:04}{file[0]}".ljust(40, "0")
            blob.write_bytes(b"{}" if file[0] == "c" else name.casefold().encode().ljust(size))
            (snapshot / file).symlink_to(f"../../blobs/{blob.name}")
            os.utime(blob, (at, at))
        for place in (snapshot, folder / "refs" / "main", folder):
            os.utime(place, (at, at))
    for key in set(os.environ) - {"PATH", "HOME", "LANG"}:
        monkeypatch.delenv(key, raising=False)
    for key, value in {**hub_env, "TERM": "dumb", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(key, value)
    return root


def shown(command: str, width: int, monkeypatch: pytest.MonkeyPatch, root: Path) -> str:
    out = Terminal()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    code = run(command.split())
    text = out.getvalue().replace(str(root), "<root>").replace(str(root.parents[1]), "<tmp>")
    # Where a path stood, a summary's length differs with the folder of the test.
    return f"$ mdl {command}\n{re.sub(r'<tmp>[^ ]*', '<path>', text)}[{code}]\n"


@pytest.mark.parametrize("width", WIDTHS)
def test_every_command_fits_its_terminal(
    width: int, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["cache", "pin", LONG]) == 0
    for mirror in (LONG, "unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit"):
        assert run(["catalog", "add", "meta-llama/Llama-3.1-8B-Instruct", mirror]) == 0
    screens = {name: shown(line, width, monkeypatch, seen) for name, line in COMMANDS.items()}
    file = GOLDEN / f"{width}.txt"
    text = "\n".join(screens.values())
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text(), "look at the difference; UPDATE_GOLDEN=1 accepts it"
    for name in ("ls", "ls-revisions", "ls-large", "show", "pins", "catalog", "sources", "config"):
        for line in screens[name].splitlines()[1:]:
            if "  " in line.strip() and "<" not in line:
                assert shown_width(line) <= width, line


def test_a_pipe_gets_every_cell_whole(
    seen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run(["cache", "ls"]) == 0
    text = capsys.readouterr().out
    assert LONG in text and "…" not in text and "\x1b" not in text


def test_colours_are_for_a_terminal_that_has_them(
    seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value, coloured in (
        ("TERM", "xterm", True), ("NO_COLOR", "1", False), ("TERM", "dumb", False)
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
        for command in ("cache ls", "catalog ls --sources", COMMANDS["resolve"], "config show"):
            text = shown(command, 80, monkeypatch, seen)
            assert ("\x1b[1m" in text) == coloured, (name, value, command)


def test_what_is_longer_than_the_terminal_is_paged(hub_env: dict[str, str]) -> None:
    env = {**hub_env, "TERM": "xterm", "PAGER": "sed s/^/paged:/"}
    code, long = on_a_terminal("catalog ls Llama-3", env)
    assert code == 0 and long.startswith("paged:")
    assert "paged:" not in on_a_terminal("catalog ls --sources", env)[1]
