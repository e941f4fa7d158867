"""Where the answer goes: closed pipes, full disks, terminals that lack a character."""

import subprocess
import sys
from pathlib import Path

import pytest

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
def test_a_reader_that_went_away_is_no_error(command: str, hub_env: dict[str, str]) -> None:
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
def test_a_full_disk_under_the_answer_is_said_once(command: str, hub_env: dict[str, str]) -> None:
    done = typed(command, hub_env, "> /dev/full")
    assert done.stderr.endswith("\n1\n")
    assert done.stderr.count("No space left") == 2  # what happened, and the system's own words


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("redirect", [">&-", "2>&-"])
def test_closed_streams_swallow(command: str, redirect: str, hub_env: dict[str, str]) -> None:
    done = typed(f"{command} {redirect}", hub_env)
    assert done.stderr == "0\n"


def test_what_a_terminal_lacks_is_escaped(hub_env: dict[str, str]) -> None:
    command = f"{sys.executable} -m mdl doctor --offline"
    env = {**hub_env, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command.split(), env=env, capture_output=True, timeout=60)
    assert done.stdout.startswith(rb"\u2713 python")
    assert (done.returncode, done.stderr) == (0, b"")
