"""`mdl kernels`: what it prints, what it refuses, and with which exit code."""

import json

import click.testing
import pytest
import torch

from mdl.cli import kernels as command
from mdl.cli.entry import run
from mdl.cli.group import cli
from mdl.kernels import self_check as check
from mdl.kernels.first_use import Finding, Measure, Record, proving
from mdl.kernels.first_use.record import Identity, write_record
from mdl.kernels.swap import Need


def invoke(capsys, *argv):
    """Exit code and standard output of `mdl kernels ...`."""
    code = run(["kernels", *argv])
    return code, capsys.readouterr().out


def test_ls_lists_operations_and_what_runs_them(capsys):
    code, out = invoke(capsys, "ls", "--json")
    body = json.loads(out)
    assert code == 0
    assert body["backend"] in ("triton", "reference")
    norms = next(one for one in body["operations"] if one["operation"] == "rms_norm")
    assert "transformers.models.llama.modeling_llama.LlamaRMSNorm" in norms["modules"]
    assert "rms_norm" in invoke(capsys, "ls")[1]


@pytest.fixture
def a_record(tmp_path, monkeypatch):
    """What was found about one kernel on a GPU."""
    monkeypatch.setenv("MDL_HOME", str(tmp_path))
    identity = Identity("NVIDIA H100", "9.0", "570.1", "2.11", "3.9", "0.50", "0.2.0")
    need = Need("rms_norm", (4096,), "bfloat16")
    measures = (Measure(1, False, 0.001, 1.0, 2.0, "torch"), Measure(16, False, 0.5))
    record = Record(identity, {need: Finding(need, measures, checked_at="2026-11-29T09:00:00Z")})
    assert write_record(tmp_path / "kernels", record)
    return record


def test_ls_shows_what_was_found_on_a_gpu(capsys, a_record):
    code, out = invoke(capsys, "ls")
    assert code == 0
    assert "Checked on NVIDIA H100, driver 570.1, torch 2.11, triton 3.9, mdl 0.2.0:" in out
    (line,) = (line for line in out.splitlines() if line.startswith("rms_norm 4096 bfloat16"))
    assert "2.00 at 1 row" in line
    assert "wrong at 16 rows: off by 0.5" in line
    (found,) = json.loads(invoke(capsys, "ls", "--json")[1])["checked"]
    assert found["identity"]["device"] == "NVIDIA H100"
    assert found["verdicts"][0]["reason"] == "wrong"


def test_check_on_a_gpu_finds_the_record_anew(capsys, a_record, monkeypatch):
    asked = []

    def prove(needs, device, home, progress=None, *, anew=False):
        asked.append((list(needs), anew))
        return a_record

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(check, "check_here", lambda: ("triton", []))
    monkeypatch.setattr(proving, "prove", prove)
    code, out = invoke(capsys, "check")
    assert code == 0
    assert asked == [([], False), (list(a_record.findings), True)]
    assert "rms_norm 4096 bfloat16" in out


@pytest.mark.parametrize("backend", ["interpreter"])
def test_check_runs_the_triton_kernels(capsys, backend):
    pytest.importorskip("triton")
    code, out = invoke(capsys, "check", "--json")
    body = json.loads(out)
    assert code == 0
    assert body["backend"] == backend
    assert all(one["ok"] for one in body["checks"])
    assert {one["dtype"] for one in body["checks"]} == {"float32", "float16", "bfloat16"}


def test_a_wrong_kernel_fails_the_check(capsys, monkeypatch):
    wrong = check.Check("rope", "float16", 0.5, 0.004, 0.1)
    monkeypatch.setattr(check, "check_here", lambda: ("triton", [wrong]))
    code, out = invoke(capsys, "check")
    assert code == 6
    assert "WRONG" in out
    assert invoke(capsys, "check", "--json")[0] == 6


def test_bench_without_a_gpu_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(["kernels", "bench"]) == 1
    assert capsys.readouterr().err.startswith("error: This measurement needs an NVIDIA GPU")


def test_options_that_cannot_be_are_refused(capsys):
    assert run(["kernels", "check", "--candidates"]) == 2
    assert "goes with --aot" in capsys.readouterr().err
    assert run(["kernels", "bench", "--only", "softmax"]) == 2
    assert "There are dequantize_4bit" in capsys.readouterr().err
    assert run(["kernels", "bench", "--nonsense"]) == 2


def test_every_command_has_help():
    for name, one in command.kernels.commands.items():
        result = click.testing.CliRunner().invoke(cli, ["kernels", name, "--help"])
        assert result.exit_code == 0
        assert one.help
