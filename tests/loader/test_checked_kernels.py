"""`mdl.load` on a GPU takes the kernels that are right and not slower; here a CPU plays the GPU."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mdl
from mdl import kernels
from mdl.kernels import records_in
from mdl.kernels.first_use import checking, proving
from mdl.loader import pipeline
from mdl.loader.progress import Progress
from mdl.loader.report import Report
from mdl.settings import load_settings

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("hub_env")


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_on_cuda", lambda model: True)
    monkeypatch.setattr(proving, "_IN_THIS_PROCESS", {})


class Lines(Progress):
    """Keeps what a terminal would show."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def phase(self, name: str) -> None:
        self.shown.append(name)


def test_the_first_load_examines_and_the_next_reads(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    progress = Lines()
    first = mdl.load(str(tiny_model("llama")), progress=progress)
    operations = {one["operation"]: one for one in first.report.kernels}
    assert {"rms_norm", "rope", "glu", "cross_entropy"} <= operations.keys()
    for one in operations.values():
        assert one["checked_at"]
        assert one["devices"] == ("CPU",)
        assert one["speeds"].keys() == {"512 rows with gradients"} or len(one["speeds"]) == 4
        assert all(why.startswith("slower") for why in one["why"]), "no reference is wrong"
    assert any("checking kernel 1 of" in line for line in progress.shown)
    assert len(records_in(load_settings().home)) == 1
    assert Report.from_json(first.report.to_json()).kernels == first.report.kernels

    monkeypatch.setattr(checking.subprocess, "Popen", lambda *args, **kwargs: pytest.fail("again"))
    proving._IN_THIS_PROCESS.clear()
    again = mdl.load(str(tiny_model("llama")))
    assert again.report.kernels == first.report.kernels


def test_a_wrong_kernel_is_a_warning_and_the_model_loads(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = [sys.executable, "-W", "ignore", "-m", "tests.kernels.first_use.broken_worker"]
    broken = functools.partial(kernels.prove, worker=[*worker, "wrong_in_one_element"])
    checked = functools.partial(kernels.apply_checked, prove=broken)
    monkeypatch.setattr(kernels, "apply_checked", checked)
    report = mdl.load(str(tiny_model("llama"))).report
    (warning,) = report.warnings
    assert warning.startswith("kernel rms_norm ")
    assert "wrong at 1 row" in warning
    shown = [text for name, text in report.lines() if name == "kernels"]
    assert any(text.startswith("rms_norm: not in 5 (wrong at 1 row") for text in shown)


@pytest.mark.parametrize(("wanted", "count"), [("unchecked", 5), (["rope"], 1), ("rope", 1)])
def test_unchecked_and_named_kernels_go_in_as_they_are(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, wanted: Any, count: int
) -> None:
    monkeypatch.setattr(
        checking.subprocess, "Popen", lambda *args, **kwargs: pytest.fail("checked")
    )
    report = mdl.load(str(tiny_model("llama")), kernels=wanted).report
    assert len(report.kernels) == count
    assert all(one["modules_in"] and not one["checked_at"] for one in report.kernels)
    assert all("not checked" in one["summary"] for one in report.kernels)
