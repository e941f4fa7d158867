"""The GPU measurement, run on the CPU with tiny shapes: it checks, times, and reports whole."""

import argparse
import json
import os
import subprocess
import sys
import time

import pytest
import torch

from mdl.errors import UsageError
from mdl.kernels.bench import cases as bench_cases
from mdl.kernels.bench import cases_layers, models, others
from mdl.kernels.bench import main as bench
from mdl.kernels.bench.case import TINY, Case
from mdl.kernels.runtime import launch_configs as tune
from mdl.kernels.self_check import Check

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def report():
    """One whole run on the CPU, without compiling the torch.compile contender."""
    options = argparse.Namespace(
        started=time.monotonic(), minutes=5.0, rounds=2, only=None, no_models=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases_layers, "compiled", lambda function: function)
        return bench.run(CPU, TINY, options)


def test_every_operation_is_right_and_timed(report):
    assert {row["operation"] for row in report["operations"]} == set(bench_cases.OPERATIONS)
    for row in report["operations"]:
        assert "wrong" not in row, row
        assert row["contenders"]["ours"]["median_ms"] > 0
        assert row["contenders"]["ours"]["share"] >= 0


def test_the_report_is_json_and_has_a_summary(report):
    assert (
        json.loads(json.dumps(report))["versions"]["torch"].split("+")[0]
        == (torch.__version__.split("+")[0])
    )
    assert all(check["ok"] for check in report["checks"])
    assert len(bench.summary(report).splitlines()) == len(report["operations"])


def case(**changes):
    made = {
        "operation": "double",
        "shape": "3",
        "of": "double",
        "contenders": {"ours": lambda: torch.full((3,), 2.0)},
        "exact": lambda: torch.full((3,), 2.0),
        "bytes": 24.0,
    }
    return Case(**{**made, **changes})


def test_a_wrong_kernels_time_is_not_reported():
    clock = bench.Clock(CPU, 1)
    off = bench.measure(case(exact=lambda: torch.full((3,), 3.0)), clock, [], {})
    assert off.keys() == {"wrong"}
    failed = Check("double, 7 rows", "float16", 1.0, 0.1, 0.0)
    assert "double, 7 rows in float16" in bench.measure(case(), clock, [failed], {})["wrong"]


def test_a_contender_that_fails_is_reported_and_the_others_timed():
    def broken():
        raise ValueError("no such kernel")

    both = {"ours": lambda: torch.full((3,), 2.0), "theirs": broken}
    found = bench.measure(
        case(contenders=both), bench.Clock(CPU, 1), [], {"copy_bytes_per_second": 1e9}
    )
    assert found["contenders"]["theirs"]["error"] == "ValueError: no such kernel"
    assert found["contenders"]["ours"]["median_ms"] is not None


def test_out_of_time_is_said():
    options = argparse.Namespace(
        started=time.monotonic() - 600, minutes=1.0, rounds=1, only="rope", no_models=True
    )
    (row,) = bench.run(CPU, TINY, options)["operations"]
    assert row["skipped"] == "out of time"


def test_without_a_gpu_it_says_so_and_fails():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: This measurement needs an NVIDIA GPU")
    assert "Traceback" not in done.stderr


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The command, with the CPU in place of a GPU and tiny shapes in place of real ones."""
    monkeypatch.setattr(bench, "require_gpu", lambda: CPU)
    monkeypatch.setattr(bench, "REAL", TINY)
    monkeypatch.setattr(bench, "LLAMA_8B", models.TINY)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def test_the_command_writes_one_json_file(on_the_cpu, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    out = tmp_path / "new" / "gpu.json"
    bench.main(["--out", str(out), "--only", "rope", "--rounds", "1"])
    body = json.loads(out.read_text())
    assert body["models"]["applied"]["swapped"]["linear_4bit"] == 7
    for who in ("transformers + bitsandbytes", "ours"):
        assert body["models"][who]["prefill_ms"] > 0
        assert body["models"][who]["decode_tokens_per_second, batch 2"] > 0
        assert body["models"][who]["qlora_step"]["ms"] > 0
    assert "compute_sanitizer" in body
    assert capsys.readouterr().out.startswith("rope, 8 tokens")


def test_tuning_times_every_candidate_and_leaves_the_table(on_the_cpu, capsys):
    before = dict(tune.TABLE["gemv_4bit"])
    bench.main(["--tune", "--only", "gemv"])
    found = json.loads(capsys.readouterr().out)["tuning"]
    assert len(found) == 1 + len(tune.CANDIDATES["gemv_4bit"])
    assert all(ms > 0 for times in found.values() for ms in times.values())
    assert tune.TABLE["gemv_4bit"] == before


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--tune", "--only", "softmax"], "Nothing to tune is called 'softmax'"),
        (["--only", "softmax"], "Nothing to measure"),
        (["--rounds", "0"], "one round"),
        (["--minutes", "0"], "some minutes"),
        (["--out", "/proc/nowhere/gpu.json"], "cannot be written"),
        (["--out", "/"], "cannot be written"),
    ],
)
def test_what_would_waste_the_minutes_is_refused_first(arguments, match, monkeypatch):
    monkeypatch.setattr(bench, "run", lambda *given: pytest.fail("it measured"))
    with pytest.raises(UsageError, match=match):
        bench.main(arguments)


def test_versions_name_what_was_measured():
    assert {"python", "torch"} <= others.versions().keys()
