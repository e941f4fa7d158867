"""`mdl.watch`: a part of a program; and a notebook's cell."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import mdl
from mdl.errors import MdlError, UsageError, VerificationError
from tests.observe.conftest import COMMIT, MIRROR, MODEL, Machine, model, nf4


@pytest.fixture
def here(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine whose user runs this very process."""
    for name in ("HF_HOME", "MDL_HOME"):
        monkeypatch.setenv(name, machine.env[name])
    return machine


def test_only_what_is_opened_in_the_block(here: Machine) -> None:
    before, inside, after = (here.add(f"org/{n}", model(n.encode())) for n in "123")
    (before / "model.safetensors").read_bytes()
    with mdl.watch() as watched:
        (inside / "model.safetensors").read_bytes()
    (after / "model.safetensors").read_bytes()
    assert [(load.repo_id, load.commit) for load in watched.report.loads] == [("org/2", COMMIT)]
    assert watched.report.exit_code is None


def test_what_its_processes_open(here: Machine) -> None:
    snapshot = here.add("org/model")
    code = "import sys; open(sys.argv[1] + '/model.safetensors').close()"
    with mdl.watch() as watched:
        subprocess.run([sys.executable, "-c", code, str(snapshot)], check=True)
    assert [load.repo_id for load in watched.report.loads] == ["org/model"]


def test_an_expectation_that_was_not_met_raises(here: Machine) -> None:
    snapshot = here.add(MIRROR, nf4(b"1"))
    watched = mdl.watch(expect=f"{MODEL}=exact", report=here.folder / "report.json")
    with pytest.raises(VerificationError, match="it was not opened"), watched:
        (snapshot / "model.safetensors").read_bytes()
    assert watched.report.verdict == "unmet"
    assert (here.folder / "report.json").exists()


def test_the_blocks_own_exception_comes_first(here: Machine) -> None:
    watched = mdl.watch(expect=MODEL)
    with pytest.raises(ZeroDivisionError), watched:
        _ = 1 / 0
    assert watched.error is not None


def test_one_in_another(here: Machine) -> None:
    one, two = here.add("org/one", model(b"1")), here.add("org/two", model(b"2"))
    with mdl.watch() as outer:
        (one / "config.json").read_bytes()
        with mdl.watch() as inner:
            (two / "config.json").read_bytes()
    assert [load.repo_id for load in inner.report.loads] == ["org/two"]
    assert [load.repo_id for load in outer.report.loads] == ["org/one", "org/two"]


def test_nothing_stays(here: Machine) -> None:
    def state() -> tuple[object, ...]:
        return (
            dict(os.environ),
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
        )

    with mdl.watch():
        pass
    before = state()
    for _ in range(3):
        with mdl.watch():
            pass
    assert state() == before


def test_what_cannot_be_expected_is_refused_before_the_block(here: Machine) -> None:
    with pytest.raises(UsageError):
        mdl.watch(expect="=nonsense")


class Shell:
    """As much of IPython's shell as a cell magic uses."""

    def __init__(self) -> None:
        self.magics: dict[str, Callable[[str, str], None]] = {}
        self.ran: list[str] = []
        self.error_before_exec: Exception | None = None
        self.error_in_exec: Exception | None = None

    def register_magic_function(self, function: Any, magic_kind: str) -> None:
        assert magic_kind == "cell"
        self.magics[function.__name__] = function

    def run_cell(self, cell: str) -> "Shell":
        self.ran.append(cell)
        try:
            exec(cell, {})
        except ZeroDivisionError as error:
            self.error_in_exec = error
        return self

    def raise_error(self) -> None:
        if self.error_in_exec is not None:
            raise self.error_in_exec


@pytest.fixture
def shell(here: Machine) -> Shell:
    here.add(MODEL)
    shell = Shell()
    mdl.load_ipython_extension(shell)
    return shell


def _cell(here: Machine) -> str:
    path = next(here.cache.root.glob("*/snapshots/*/model.safetensors"))
    return f"open({str(path)!r}).close()"


@pytest.mark.parametrize("line", ["", f"--expect {MODEL}"])
def test_a_notebooks_cell(
    here: Machine, shell: Shell, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    shell.magics["mdl_run"](line, _cell(here))
    assert capsys.readouterr().err.startswith("mdl run: opened 1 model in ")
    assert shell.ran == [_cell(here)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--expect org/other", "error: expected org/other; it was not opened."),
        ("--nonsense", "error: '--nonsense' is not understood here."),
        ("--expect 'x", "error: The line cannot be read"),
    ],
)
def test_a_notebooks_cell_that_fails(here: Machine, shell: Shell, line: str, says: str) -> None:
    """The cell fails with what IPython shows in place of a traceback."""
    with pytest.raises(MdlError) as raised:
        shell.magics["mdl_run"](line, _cell(here))
    (shown,) = raised.value._render_traceback_()  # type: ignore[attr-defined]
    assert shown.startswith(says)
    assert len(shell.ran) == line.count("org/other"), "refused before it ran"


def test_a_cells_own_exception_is_not_lost(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError):
        shell.magics["mdl_run"]("--expect org/other", "1 / 0")
    said = capsys.readouterr().err
    assert "opened 0 models" in said
    assert "error: expected org/other" in said
