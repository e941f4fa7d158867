"""The script for a lent GPU: order, time limits, going on where it stopped; and its parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_session
from benchmarks.gpu_session import PARTS, Session
from mdl.kernels.bench import cases_layers

SCRIPT = Path(gpu_session.__file__).with_suffix(".sh")
STAND_IN = """#!/usr/bin/env bash
# Stands in for python: notes the part, and does what the file of its name says.
while [ $# -gt 0 ] && [ "$1" != benchmarks.gpu_session ]; do shift; done
part=$2 out=$4
echo "$part" >> "$NOTES/asked"
if [ -f "$NOTES/$part" ]; then . "$NOTES/$part"; fi
[ "$part" = summary ] || echo '{}' > "$out"
"""


@pytest.fixture
def script(tmp_path):
    """Run the script with a stand-in for python; `tmp_path/PART` is what it does at a part."""
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def run(*arguments, folder="out"):
        asked = tmp_path / "asked"
        asked.unlink(missing_ok=True)
        done = subprocess.run(
            [SCRIPT, tmp_path / folder, *arguments],
            env={**os.environ, "PYTHON": str(python), "NOTES": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, asked.read_text().split() if asked.exists() else []

    return run


def test_every_part_in_the_order_of_what_matters(script, tmp_path):
    done, asked = script()
    assert done.returncode == 0
    assert asked == [*PARTS, "summary"]
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == set(PARTS)


def test_a_second_call_goes_on_where_the_first_stopped(script, tmp_path):
    (tmp_path / "decoding").write_text("echo 'CUDA error'; exit 3")
    done, asked = script()
    assert done.returncode == 1
    assert "decoding: failed (3): CUDA error" in done.stdout
    assert asked == [*PARTS, "summary"], "the other parts are not lost"
    (tmp_path / "decoding").unlink()
    done, asked = script()
    assert (done.returncode, asked) == (0, ["decoding", "summary"])


def test_a_part_that_hangs_is_stopped_and_what_the_time_does_not_hold_left(script, tmp_path):
    (tmp_path / "checks").write_text("exec tail -f /dev/null")
    done, asked = script("--minutes", "0.2")
    assert done.returncode == 1
    assert "checks: stopped after" in done.stdout
    assert "first-use: no time left" in done.stdout
    assert asked == ["environment", "checks", "summary"]


def test_a_bundle_carries_the_parts_to_another_machine(script, tmp_path):
    bundle = str(tmp_path / "all.tar.gz")
    (tmp_path / "layers").write_text("exit 1")
    script("--bundle", bundle)
    (tmp_path / "layers").unlink()
    _, asked = script("--bundle", bundle, folder="fresh")
    assert asked == ["layers", "summary"]


@pytest.mark.parametrize("arguments", [["--minutes"], ["--nonsense"], ["another"]])
def test_wrong_arguments_end_with_the_usage(script, arguments):
    done, asked = script(*arguments)
    assert (done.returncode, asked) == (2, [])
    assert "benchmarks/gpu_session.sh FOLDER" in done.stderr


@pytest.fixture
def session(tmp_path):
    return Session(torch.device("cpu"), True, tmp_path / "part.partial.json")


def test_environment_names_what_is_missing(session, monkeypatch):
    monkeypatch.setattr(gpu_session, "NEEDED", ("json", "no_such_library"))
    found = gpu_session.environment(session)
    assert found["missing"] == ["no_such_library"]
    assert found["versions"]["torch"]


def test_a_long_part_goes_on_after_the_rows_it_has(session):
    (row,) = gpu_session.operations(session, cases_layers.rope)["operations"]
    assert row["contenders"]["ours"]["median_ms"] > 0
    kept = json.loads(session.partial.read_text())
    kept["operations"][0]["error"] = "from before"
    session.partial.write_text(json.dumps(kept))
    again = gpu_session.operations(session, cases_layers.rope, cases_layers.glu)
    assert [row["operation"] for row in again["operations"]][:2] == ["rope", "swiglu"]
    assert again["operations"][0]["error"] == "from before"


def test_a_copy_through_pinned_buffers_is_the_file(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(1000))
    copied = gpu_session.pinned_copy(file, torch.device("cpu"), chunk=300)
    assert bytes(copied.tolist()) == file.read_bytes()


def test_a_way_to_load_that_fails_does_not_lose_the_others(session):
    def fails():
        raise ImportError("no such library")

    assert gpu_session._best(session, fails) == {"failed": "ImportError: no such library"}
    assert gpu_session._best(session, list)["seconds"] >= 0


def test_a_part_writes_its_file_and_the_summary_reads_it(tmp_path, capsys):
    out = tmp_path / "sanitizer.json"
    assert gpu_session.main(["sanitizer", "--out", str(out), "--rehearse"]) == 0
    assert json.loads(out.read_text())["rehearsed"]
    assert gpu_session.main(["summary", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "sanitizer: done" in shown
    assert "checks: missing" in shown


SANITIZER = """#!/bin/sh
# Stands in for compute-sanitizer: runs the command, and ends as it does.
[ "$1 $2" = "--tool memcheck" ] || exit 9
shift 2
"$@" || exit
echo "========= ERROR SUMMARY: 0 errors"
"""


def test_compute_sanitizer_runs_the_checks(session, tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = gpu_session.sanitizer(session)
    assert found == {"summary": ["========= ERROR SUMMARY: 0 errors"], "rc": 0}


@pytest.mark.system("liger_kernel")
def test_liger_is_called_as_it_wants_to_be(tmp_path):
    """Its own kernels, interpreted: on some the interpreter fails, on none do our arguments."""
    out = tmp_path / "layers.json"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_session", "layers",
         "--out", out, "--rehearse"],
        env={**os.environ, "TRITON_INTERPRET": "1"}, check=True, timeout=600,
    )  # fmt: skip
    rows = json.loads(out.read_text())["operations"]
    errors = [way["error"] for row in rows for who, way in row["contenders"].items()
              if "liger" in who]  # fmt: skip
    assert len(errors) == len(rows)
    assert errors.count("") >= 3
    assert all(error.startswith("InterpreterError") for error in errors if error)


def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_session.main(["checks", "--out", str(tmp_path / "checks.json")]) == 1
    assert "--rehearse" in capsys.readouterr().err
