"""Where the answer goes: closed pipes, full disks, terminals that lack a character."""

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from mdl.cli.entry import run
from tests.cli.conftest import Run
from tests.hub import LoopbackHub

COMMANDS = ["cache ls", "catalog ls", "catalog ls --json", "catalog export", "--help"]


def typed(
    command: str, env: dict[str, str], redirect: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run it in a shell, with its exit code as the last line of standard error."""
    line = f"{sys.executable} -m mdl {command} {redirect}; echo $? >&2"
    done = subprocess.run(["sh", "-c", line], env=env, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_pipe_is_not_an_error(command: str, hub_env: dict[str, str]) -> None:
    mdl = subprocess.Popen(
        [sys.executable, "-m", "mdl", *command.split()],
        env=hub_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert mdl.stdout is not None and mdl.stderr is not None
    mdl.stdout.close()
    assert (mdl.wait(60), mdl.stderr.read()) == (0, "")
    mdl.stderr.close()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_under_the_output_is_reported_once(
    command: str, hub_env: dict[str, str]
) -> None:
    done = typed(command, hub_env, "> /dev/full")
    assert done.stderr.endswith("\n1\n")
    assert done.stderr.count("No space left") == 2  # what happened, and the system's own words


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("redirect", [">&-", "2>&-"])
def test_closed_streams_discard_output(
    command: str, redirect: str, hub_env: dict[str, str]
) -> None:
    done = typed(f"{command} {redirect}", hub_env)
    assert done.stderr == "0\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [("catalog rm Org/Own", 2), ("resolve --stdin", 0), ("cache pin", 0)],
)
def test_closed_standard_input_is_empty(
    command: str, code: int, mdl: Run, hub_env: dict[str, str]
) -> None:
    assert mdl("catalog", "add", "Org/Own", "me/own-bnb-4bit").code == 0
    done = typed(f"{command} <&-", hub_env)
    assert done.stderr.endswith(f"{code}\n")
    assert ("there is no terminal" in done.stderr) == (code == 2)


def test_a_librarys_exit_is_not_taken_for_a_closed_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of a model's repository may call sys.exit: that is no success."""
    monkeypatch.setattr("mdl.cli.cache.options.load_settings", lambda: sys.exit(4))
    with pytest.raises(SystemExit) as ended:
        run(["cache", "ls"])
    assert ended.value.code == 4


def on_a_terminal(command: str, env: dict[str, str], answer: bytes = b"") -> tuple[int, str]:
    """Exit code and everything shown, on a terminal of its own."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "mdl", *command.split()]
    with subprocess.Popen(words, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as mdl:
        os.close(theirs)
        os.write(ours, answer)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody is left
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
    return mdl.returncode, shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("command", ["lock gpt2 -o {file}", "lock gpt2 -o {file} --json"])
def test_answering_no_changes_nothing(
    command: str, hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> None:
    hub.add_repo("gpt2", files={"config.json": "{}"})
    file = tmp_path / "mdl.lock"
    file.write_text("before")
    code, shown = on_a_terminal(command.format(file=file), hub_env, b"n\n")
    assert (code, file.read_text()) == (1, "before")
    assert "Overwrite" in shown and "nothing was changed" in shown
    code, shown = on_a_terminal(command.format(file=file), hub_env, b"y\n")
    assert (code, "version = 1" in file.read_text()) == (0, True)


def test_a_narrow_terminal_keeps_the_names(hub_env: dict[str, str]) -> None:
    command = "catalog ls unsloth/gemma-2b-bnb-4bit"
    code, wide = on_a_terminal(command, {**hub_env, "COLUMNS": "200"})
    assert (code, "RELATION" in wide and "SOURCE" in wide) == (0, True)
    code, narrow = on_a_terminal(command, {**hub_env, "COLUMNS": "80"})
    assert "unsloth/gemma-2b-bnb-4bit" in narrow and "RELATION" not in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_characters_a_terminal_cannot_show_are_escaped(hub_env: dict[str, str]) -> None:
    command = f"{sys.executable} -m mdl doctor --offline"
    env = {**hub_env, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command.split(), env=env, capture_output=True, timeout=60)
    assert done.stdout.startswith(rb"\u2713 python")
    assert (done.returncode, done.stderr) == (0, b"")
