"""`mdl run` leaves a command's streams, signals, terminal and exit code as they are."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.observe.conftest import MIRROR, MODEL, Machine, model, nf4, take_signals


def _until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


# -- equal with and without -------------------------------------------------------------------

_MODULES = "import sys; print(sys.path, sorted({*sys.modules} - {'_mdl_run_hook'}))"
SCRIPTS = {
    "output": ("sh", "-c", "echo out; echo err >&2"),
    "input": ("cat",),
    "code": ("sh", "-c", "exit 3"),
    "arguments": (sys.executable, "-c", "import sys; print(sys.argv)", "--json", "--", "-x", "a b"),
    "environment": ("sh", "-c", "env | grep -v -e ^MDL_RUN= -e ^PYTHONPATH= -e ^_= | sort"),
    "python's path": (
        sys.executable,
        "-c",
        "import sys; print(sys.path, sorted({*sys.modules} - {'_mdl_run_hook'}))",
    ),
    "signals": ("sh", "-c", "grep -e SigBlk -e SigCgt /proc/self/status"),
    "descriptors": ("sh", "-c", "ls /proc/self/fd | wc -l"),
    "group": ("sh", "-c", "ps -o pgid= -p $$ | wc -l"),
    "limits": ("sh", "-c", "ulimit -a; umask; pwd"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_command_behaves_as_without(machine: Machine, name: str) -> None:
    words = SCRIPTS[name]
    plain = subprocess.run(
        words, env=machine.env, cwd=machine.folder, input="in", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    ran = machine.run(*words, options=("--quiet",), stdin="in")
    assert (ran.code, ran.out, ran.err) == (plain.returncode, plain.stdout, plain.stderr)


def test_the_environments_own_sitecustomize_runs(machine: Machine) -> None:
    machine.write("sitecustomize.py", "import os\nif 'MDL_RUN' in os.environ: print('mine')")
    ran = machine.python("import sitecustomize; print(sitecustomize.__file__)",
                         PYTHONPATH=str(machine.folder))  # fmt: skip
    assert ran.out.splitlines() == ["mine", f"{machine.folder}/sitecustomize.py"]


def test_there_is_no_sitecustomize_where_there_was_none(machine: Machine) -> None:
    code = "try: import sitecustomize\nexcept ImportError: print('none')"
    assert machine.python(f"import sys; print('sitecustomize' in sys.modules)\n{code}").out == (
        "False\nnone\n"
    )


def test_a_script_without_an_interpreter_line(machine: Machine) -> None:
    script = Path(machine.write("plain", "echo $1"))
    script.chmod(0o755)
    assert machine.run(str(script), "hello").out == "hello\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("no-such-command",), 127, "There is no command 'no-such-command'."),
        (("/etc",), 126, "/etc cannot be run."),
        (("/nowhere/at-all",), 127, "There is no command"),
        ((), 2, "Missing argument"),
    ],
)
def test_what_cannot_be_run(machine: Machine, words: tuple[str, ...], code: int, says: str) -> None:
    ran = machine.run(*words)
    assert ran.code == code
    assert says in ran.err


def test_a_working_directory_that_is_gone(machine: Machine) -> None:
    gone = machine.folder / "gone"
    gone.mkdir()
    code = f"cd {gone}; rmdir {gone}; exec {sys.executable} -m mdl run -- echo fine"
    done = subprocess.run(
        ["sh", "-c", code], env=machine.env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# -- signals ----------------------------------------------------------------------------------

_TRAP = "trap 'echo {0} >> got; exit 5' {0}; touch ready; while :; do sleep 0.05; done"


def _ready(machine: Machine) -> bool:
    return (machine.folder / "ready").exists()


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "USR1", "QUIT"])
def test_a_signal_to_mdl_reaches_the_command_once(machine: Machine, name: str) -> None:
    run = machine.popen("run", "--", "sh", "-c", _TRAP.format(name), start_new_session=True)
    _until(lambda: _ready(machine))
    run.send_signal(getattr(signal, f"SIG{name}"))
    assert run.wait(20) == 5
    assert (machine.folder / "got").read_text() == f"{name}\n"


@pytest.mark.parametrize("busy", [False, True])
def test_a_signal_to_the_group_reaches_the_command_once(machine: Machine, busy: bool) -> None:
    """Also on a machine so busy that the process that hears of it does not get to run."""
    # In Python: a child that a shell has just begun by `vfork` runs the shell's own trap, too.
    code = (
        "import os, signal, time\n"
        "got = os.open('got', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "signal.signal(signal.SIGINT, lambda number, frame: os.write(got, b'INT\\n'))\n"
        "open('ready', 'w').close()\n"
        "while not os.path.exists('end'): time.sleep(0.01)"
    )
    script = machine.write("traps.py", code)
    run = machine.popen("run", "--", sys.executable, script, start_new_session=True)
    _until(lambda: _ready(machine))
    if busy:
        mdl = Path(f"/proc/{run.pid}/cmdline").read_bytes()
        (listener,) = (
            pid for pid in _children(run.pid) if Path(f"/proc/{pid}/cmdline").read_bytes() == mdl
        )
        os.kill(listener, signal.SIGSTOP)
        _until(lambda: ") T " in Path(f"/proc/{listener}/stat").read_text())
    os.killpg(run.pid, signal.SIGINT)
    _until(lambda: (machine.folder / "got").read_text())
    time.sleep(0.1)  # for a second one to come
    (machine.folder / "end").touch()
    assert run.wait(20) == 0
    assert (machine.folder / "got").read_text() == "INT\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL", "SIGSEGV"])
def test_a_command_that_a_signal_ends_ends_mdl_the_same_way(machine: Machine, name: str) -> None:
    number = getattr(signal, name)
    run = machine.popen("run", "--report=r.json", "--", "sh", "-c", f"kill -{number} $$")
    run.wait(20)
    assert run.returncode == -number
    report = json.loads((machine.folder / "r.json").read_text())
    assert (report["exit_code"], report["signal"]) == (128 + number, name)


def test_the_command_lives_on_when_mdl_is_killed(machine: Machine) -> None:
    """What the user started is not lost with its observer, and writes into no broken folder."""
    snapshot = machine.add("org/model")
    code = (
        "import time, os, sys, huggingface_hub; open('ready', 'w').close()\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "open(sys.argv[1] + '/config.json').close(); open('done', 'w').close()"
    )
    run = machine.popen("run", "--", sys.executable, "-c", code, str(snapshot))
    _until(lambda: _ready(machine))
    run.kill()
    run.wait()
    (machine.folder / "go").touch()
    _until((machine.folder / "done").exists)


def test_no_process_and_no_folder_is_left_behind(machine: Machine, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    machine.run("true", TMPDIR=str(temporary), XDG_RUNTIME_DIR="")
    assert list(temporary.iterdir()) == []


# -- terminals --------------------------------------------------------------------------------


@pytest.fixture
def terminal(machine: Machine) -> Iterator[tuple[int, int]]:
    """An interactive shell in a terminal of its own: the master's descriptor, and the shell."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(machine.folder)
        take_signals()
        os.execve("/bin/bash", ["bash", "--norc", "-i"], {**machine.env, "PS1": "$ "})
    yield master, pid
    os.close(master)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _read_until(master: int, text: str) -> str:
    said = ""
    end = time.monotonic() + 20
    while text not in said:
        ready, _, _ = select.select([master], [], [], max(0.0, end - time.monotonic()))
        assert ready, said
        said += os.read(master, 65536).decode(errors="replace")
    return said


def test_a_command_has_the_terminal(machine: Machine, terminal: tuple[int, int]) -> None:
    master, _ = terminal
    code = "import sys; print('tty:', *[s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)])"
    script = machine.write("tty.py", code)
    os.write(master, f"{sys.executable} -m mdl run -- {sys.executable} {script}\n".encode())
    _read_until(master, "tty: True True True")


def test_ctrl_c_reaches_the_command_and_the_report_is_still_made(
    machine: Machine, terminal: tuple[int, int]
) -> None:
    master, _ = terminal
    script = machine.write("wait.sh", _TRAP.format("INT"))
    os.write(master, f"{sys.executable} -m mdl run -- sh {script}; echo code=$?\n".encode())
    _until(lambda: _ready(machine))
    os.write(master, b"\x03")
    said = _read_until(master, "code=5")
    assert "opened 0 models" in said
    assert (machine.folder / "got").read_text() == "INT\n"


def test_ctrl_z_stops_the_job_and_fg_continues_it(
    machine: Machine, terminal: tuple[int, int]
) -> None:
    master, _ = terminal
    # In Python: a shell whose `vfork` is stopped half-way is itself never stopped.
    waits = "import os, time\nwhile not os.path.exists('end'): time.sleep(0.01)\nos._exit(4)"
    script = machine.write("waits.py", f"open('ready', 'w').close()\n{waits}")
    os.write(master, f"{sys.executable} -m mdl run -- {sys.executable} {script}\n".encode())
    _until(lambda: _ready(machine))
    os.write(master, b"\x1a")
    _read_until(master, "Stopped")
    (machine.folder / "end").touch()
    os.write(master, b"fg; echo code=$?\n")
    _read_until(master, "code=4")


# -- holding to it ----------------------------------------------------------------------------


def test_what_was_expected_keeps_the_commands_code(machine: Machine) -> None:
    snapshot = machine.add(MODEL)
    ran = machine.run("sh", "-c", f"cat {snapshot}/*; exit 9", options=(f"--expect={MODEL}=exact",))
    assert ran.code == 9
    assert ran.report["verdict"] == "met"


def test_a_silent_substitution_is_told_and_ends_with_6(machine: Machine) -> None:
    machine.add(MODEL)
    snapshot = machine.add(MIRROR, nf4(b"1"))
    expect = f"--expect={MODEL}=exact"
    ran = machine.run("sh", "-c", f"cat {snapshot}/* >/dev/null; exit 9", options=(expect,))
    assert ran.code == 6
    assert (ran.report["exit_code"], ran.report["verdict"]) == (9, "unmet")
    assert f"error: expected {MODEL}, exact; it was not opened." in ran.err
    assert "use_exact_model_name=True" in ran.err


def test_fail_fast_ends_the_command_at_once(machine: Machine) -> None:
    snapshot = machine.add(MIRROR, nf4(b"1"))
    options = (f"--expect={MODEL}", "--fail-fast")
    started = time.monotonic()
    ran = machine.run("sh", "-c", f"cat {snapshot}/* >/dev/null; sleep 60; touch trained",
                      options=options)  # fmt: skip
    assert ran.code == 6
    assert (ran.report["stopped"], ran.report["signal"]) == (True, "SIGTERM")
    assert time.monotonic() - started < 30
    assert not (machine.folder / "trained").exists()


def test_fail_fast_lets_what_is_expected_run(machine: Machine) -> None:
    snapshot = machine.add(MODEL)
    machine.add(MIRROR, nf4(b"1"))
    ran = machine.run("sh", "-c", f"cat {snapshot}/*; sleep 0.5; exit 3",
                      options=(f"--expect={MODEL}", "--fail-fast"))  # fmt: skip
    assert (ran.code, ran.report["stopped"]) == (3, False)


def test_an_interrupted_run_is_not_called_wrong(machine: Machine) -> None:
    run = machine.popen("run", f"--expect={MODEL}", "--", "sh", "-c", "kill -INT $$")
    run.wait(20)
    assert run.returncode == -signal.SIGINT


# -- what is written --------------------------------------------------------------------------


def test_a_run_counts_as_use_and_is_in_the_resolution_log(machine: Machine) -> None:
    from mdl.cachemgr import open_cache
    from mdl.settings import Settings
    from mdl.store import open_catalog

    snapshot = machine.add(MODEL)
    settings = Settings(home=machine.folder / "mdl", cache_root=machine.cache.root)
    before = time.time()
    machine.run("cat", f"{snapshot}/model.safetensors")
    (listed,) = open_cache(settings).list()
    assert listed.last_used is not None
    assert listed.last_used >= before - 1
    with contextlib.closing(open_catalog(settings).database) as database:
        (row,) = database.rows("SELECT purpose, requested, repo_id, rule FROM resolution_log")
    assert tuple(row) == ("run", MODEL, MODEL, "opened")


def test_the_report_as_json(machine: Machine) -> None:
    snapshot = machine.add(MODEL)
    ran = machine.run("cat", f"{snapshot}/config.json", options=("--json",))
    assert json.loads(ran.err) == ran.report


@pytest.mark.parametrize(
    ("option", "code", "says"),
    [
        ("--report=/proc/none/r.json", 1, "The report cannot be written to /proc/none/r.json."),
        ("--report=/tmp", 1, "The report cannot be written to /tmp."),
        ("--watch=/nowhere", 3, "/nowhere is not a folder."),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_command(
    machine: Machine, option: str, code: int, says: str
) -> None:
    run = machine.popen("run", option, "--", "touch", "started", stderr=subprocess.PIPE)
    _, err = run.communicate(timeout=20)
    assert run.returncode == code
    assert says in err
    assert not (machine.folder / "started").exists()


def test_a_token_on_the_command_line_is_in_no_report(machine: Machine) -> None:
    secret = "hf_" + "x" * 34
    machine.add("org/model")
    ran = machine.run("true", f"--token={secret}", options=("--json",))
    assert secret not in ran.err + json.dumps(ran.report)


def test_a_report_is_verified_later(machine: Machine) -> None:
    snapshot = machine.add(MODEL, {**model(), "note.txt": b"1"})
    machine.run("cat", *(str(path) for path in snapshot.iterdir()))
    verify = [sys.executable, "-m", "mdl", "verify", str(machine.folder / "report.json")]

    def code() -> int:
        return subprocess.run(verify, env=machine.env, capture_output=True, check=False).returncode

    assert code() == 0
    (snapshot / "note.txt").resolve().write_bytes(b"2")
    assert code() == 6


def test_a_report_of_a_run_that_went_wrong_stays_wrong(machine: Machine) -> None:
    snapshot = machine.add(MIRROR, nf4(b"1"))
    machine.run("cat", f"{snapshot}/model.safetensors", options=(f"--expect={MODEL}",))
    done = subprocess.run(
        [sys.executable, "-m", "mdl", "verify", str(machine.folder / "report.json")],
        env=machine.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 6
    assert f"expected {MODEL}" in done.stderr
