"""Findings are kept by device and versions, shared by processes, and made again when damaged."""

import dataclasses
import errno
import json
import subprocess
import sys

import filelock
import pytest
import torch

from mdl.kernels.first_use import Finding, Limits, Measure, prove, records_in
from mdl.kernels.first_use.record import Record, folder_in, identity_of, write_record
from mdl.kernels.swap import Need
from tests.kernels.first_use.test_checking import worker

CPU = torch.device("cpu")
NORM = Need("rms_norm", (64,), "float32")
GLU = Need("glu", (96,), "float32", "silu")
PATIENT = Limits(total=200.0, silence=100.0, start=100.0)
module = sys.modules["mdl.kernels.first_use.proving"]


@pytest.fixture(autouse=True)
def a_new_process(monkeypatch):
    monkeypatch.setattr(module, "_IN_THIS_PROCESS", {})


@pytest.fixture
def forget(monkeypatch):
    """As if another process asked."""
    return lambda: module._IN_THIS_PROCESS.clear()


@pytest.fixture
def examined(monkeypatch):
    """The needs that were examined; findings are made up."""
    asked = []

    def examine_all(needs, *rest):
        asked.append(list(needs))
        return [finding_of(need) for need in needs]

    monkeypatch.setattr(module, "examine_all", examine_all)
    return asked


def finding_of(need, **more):
    return Finding(need, (Measure(1, False, 0.0, 1.0, 2.0, "torch"),), **more)


def test_a_device_is_examined_once(tmp_path, examined, forget):
    first = prove([NORM], CPU, tmp_path)
    forget()
    assert prove([NORM], CPU, tmp_path).findings == first.findings
    assert examined == [[NORM]]


def test_only_new_needs_are_examined(tmp_path, examined, forget):
    prove([NORM], CPU, tmp_path)
    forget()
    assert prove([NORM, GLU], CPU, tmp_path).findings.keys() == {NORM, GLU}
    assert examined == [[NORM], [GLU]]


def test_anew_examines_all_again(tmp_path, examined):
    prove([NORM], CPU, tmp_path)
    prove([NORM], CPU, tmp_path, anew=True)
    assert examined == [[NORM], [NORM]]


@pytest.mark.parametrize("field", ["driver", "torch", "triton", "mdl", "device", "bitsandbytes"])
def test_another_device_or_version_is_examined_anew(tmp_path, examined, monkeypatch, field):
    prove([NORM], CPU, tmp_path)
    other = dataclasses.replace(identity_of(CPU), **{field: "other"})
    monkeypatch.setattr(module, "identity_of", lambda device: other)
    prove([NORM], CPU, tmp_path)
    assert len(examined) == 2
    assert len(records_in(tmp_path)) == 2, "the first is still right for its own"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"format": 1}', '{"format": 99}', "\0\0", "[" * 100_000,
     '{"format": 1, "identity": {"device": "x"}, "findings": []}',
     '{"format": 1, "identity": {}, "findings": [{"need": 3}]}',
     '{"format": 1, "identity": {}, "findings": [{"need": {"sizes": [1], "dtype": "int8"}}]}'],
)  # fmt: skip
def test_a_damaged_file_is_made_again(tmp_path, examined, content, caplog):
    path = folder_in(tmp_path) / identity_of(CPU).file_name
    path.parent.mkdir()
    path.write_text(content)
    prove([NORM], CPU, tmp_path)
    assert examined == [[NORM]]
    assert "not a record of this device" in caplog.text
    assert records_in(tmp_path)[0].findings.keys() == {NORM}


def test_a_file_of_another_device_is_not_believed(tmp_path, examined):
    foreign = Record(dataclasses.replace(identity_of(CPU), driver="1.2"), {})
    write_record(folder_in(tmp_path), foreign.with_findings([finding_of(NORM)]))
    path = folder_in(tmp_path) / foreign.identity.file_name
    path.rename(path.with_name(identity_of(CPU).file_name))
    prove([NORM], CPU, tmp_path)
    assert examined == [[NORM]]


def test_what_may_pass_is_not_kept(tmp_path, monkeypatch, forget):
    """A full card today says nothing about tomorrow."""
    monkeypatch.setattr(
        module, "examine_all",
        lambda needs, *rest: [
            finding_of(one, failure="full", lasting=False) for one in needs
        ],
    )  # fmt: skip
    assert prove([NORM], CPU, tmp_path).findings[NORM].failure == "full"
    forget()
    assert records_in(tmp_path)[0].findings == {}


def test_a_home_that_cannot_be_written_is_measured_once_a_process(tmp_path, examined, caplog):
    home = tmp_path / "home"
    home.write_text("a file where the folder should be")
    for _ in range(2):
        assert prove([NORM], CPU, home).findings.keys() == {NORM}
    assert examined == [[NORM]]
    assert caplog.text.count("could not be kept") == 1


def test_a_read_only_home(tmp_path, examined, monkeypatch):
    """Neither a lock nor a file can be made there; root is let in, so it is only played."""

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", read_only)
    monkeypatch.setattr("tempfile.mkstemp", read_only)
    assert prove([NORM], CPU, tmp_path).findings.keys() == {NORM}
    assert records_in(tmp_path) == []


def test_of_two_processes_one_examines(tmp_path):
    """Two ranks that load the same model."""
    script = (
        "import sys, json, torch\n"
        "from mdl.kernels.first_use import Limits, prove\n"
        "from mdl.kernels.swap import Need\n"
        "job = json.loads(sys.argv[1])\n"
        "record = prove([Need('rms_norm', (64,), 'float32')], torch.device('cpu'), job['home'],"
        " print, limits=Limits(200, 100, 100), worker=job['worker'])\n"
        "print(len(record.findings))\n"
    )
    log = tmp_path / "log"
    job = json.dumps({"home": str(tmp_path), "worker": worker("right", str(log))})
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, job], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [output.splitlines()[-1] for output in outputs] == ["1", "1"]
    assert len(log.read_text().splitlines()) == 1


def test_a_rank_that_waits_too_long_goes_on_unchecked(tmp_path, examined):
    folder = folder_in(tmp_path)
    folder.mkdir()
    lines = []
    with filelock.FileLock(folder / f"{identity_of(CPU).file_name}.lock", is_singleton=False):
        limits = Limits(total=0.1, silence=0.1, start=0.1)
        record = prove([NORM], CPU, tmp_path, lines.append, limits=limits)
    assert record.findings == {}
    assert examined == []
    assert lines == ["waiting for another process that checks the kernels"]
