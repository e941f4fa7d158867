"""What goes in: pure decisions about what was measured."""

import dataclasses

import pytest

from mdl.kernels.first_use import Finding, Measure, decide
from mdl.kernels.swap import Need

NEED = Need("rms_norm", (4096,), "bfloat16")


def finding(*speeds, error=0.001, **more):
    rows = (1, 16, 512, 512)
    measures = tuple(
        Measure(row, place == 3, error, 1.0, speed, "torch")
        for place, (row, speed) in enumerate(zip(rows, speeds, strict=False))
    )
    return Finding(NEED, measures, **more)


@pytest.mark.parametrize(
    ("speeds", "reason"),
    [
        ((2.0, 1.5, 1.0, 1.0), "right"),
        ((0.99, 0.99, 0.99, 0.99), "right"),
        ((0.9, 0.95, 0.95, 0.9), "slower"),
        ((3.0, 3.0, 0.7, 1.0), "slower"),
        ((3.0, 1.0, 0.85, 0.9), "right"),
    ],
)
def test_the_mean_decides_and_no_row_count_may_be_far_slower(speeds, reason):
    assert decide(finding(*speeds)).reason == reason


def test_speeds_are_told_by_row_count():
    assert decide(finding(2.0, 1.5, 1.2, 1.1)).speeds == {
        "1 row": 2.0,
        "16 rows": 1.5,
        "512 rows": 1.2,
        "512 rows with gradients": 1.1,
    }


@pytest.mark.parametrize("error", [0.031, float("inf"), float("nan")])
def test_wrong_stays_out_however_fast(error):
    verdict = decide(finding(9.0, 9.0, error=error))
    assert (verdict.goes_in, verdict.reason, verdict.warns) == (False, "wrong", True)


def test_a_failure_stays_out_and_one_that_may_pass_is_unchecked():
    failed = finding(9.0, failure="out of resource")
    assert decide(failed).reason == "failed"
    assert decide(dataclasses.replace(failed, lasting=False)).reason == "unchecked"
    assert decide(None).reason == "unchecked"


def test_right_with_nothing_to_compare_goes_in():
    """The other library is missing or fails itself."""
    alone = Finding(NEED, (Measure(1, False, 0.001, 1.0, None, "torch"),))
    assert decide(alone).goes_in


def test_a_finding_survives_json():
    one = finding(2.0, 1.5, failure="no", checked_at="2026-11-29T09:00:00+00:00")
    assert Finding.from_json(one.to_json()) == one
