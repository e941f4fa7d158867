"""`mdl kernels`: what it prints, what it refuses, and with which exit code."""

import json

import click.testing
import pytest
import torch

from mdl.cli import kernels as command
from mdl.cli.entry import run
from mdl.cli.group import cli
from mdl.kernels import self_check as check


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
