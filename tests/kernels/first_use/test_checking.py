"""Kernels that are wrong, slow, broken or hang are found out by a process that may die of it."""

import sys

import pytest

from mdl.kernels.first_use import Limits, decide
from mdl.kernels.first_use.checking import WORKER, examine_all
from mdl.kernels.swap import Need

NORM = Need("rms_norm", (64,), "float32")
GLU = Need("glu", (96,), "float32", "silu")
NEEDS = [NORM, GLU]
PATIENT = Limits(total=200.0, silence=100.0, start=100.0)


def worker(how, *more):
    return [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.kernels.first_use.broken_worker",
        how,
        *more,
    ]


def examine(how, limits=PATIENT, lines=None):
    return examine_all(
        NEEDS, "cpu", limits, (lines if lines is not None else []).append, worker(how)
    )


def test_right_kernels_are_measured_at_all_rows_with_a_line_each():
    lines = []
    norm, glu = examine_all(NEEDS, "cpu", PATIENT, lines.append, WORKER)
    assert [one.label for one in norm.measures] == [
        "1 row", "16 rows", "512 rows", "512 rows with gradients"
    ]  # fmt: skip
    assert all(one.error < 1e-5 and one.ms > 0 and one.other_ms > 0 for one in norm.measures)
    assert (norm.failure, glu.failure, glu.need) == ("", "", GLU)
    assert lines == [
        "checking kernel 1 of 2, rms_norm 64 float32",
        "checking kernel 2 of 2, glu 96 silu float32",
    ]


def test_one_wrong_element_is_found():
    norm, glu = examine("wrong_in_one_element")
    assert decide(norm).reason == "wrong"
    assert "off by" in decide(norm).why
    assert norm.measures[-1].ms is None, "a wrong kernel is not timed"
    assert decide(glu).reason in ("right", "slower")


def test_a_slow_kernel_is_right_and_stays_out():
    norm, _ = examine("slow")
    verdict = decide(norm)
    assert (verdict.goes_in, verdict.reason, verdict.warns) == (False, "slower", False)
    assert "x torch" in verdict.why


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("does_not_compile", "RuntimeError: error: 'tt.dot' op expected 16 rows"),
        ("dies", "the process ended, Segmentation fault"),
    ],
)
def test_a_kernel_that_fails_does_not_take_the_others_with_it(how, words):
    norm, glu = examine(how)
    assert decide(norm).reason == "failed"
    assert words in norm.failure
    assert norm.lasting
    assert len(glu.measures) == 4


def test_a_failure_at_the_third_shape_counts():
    norm, _ = examine("fails_at_the_third_shape")
    assert [one.rows for one in norm.measures] == [1, 16]
    assert decide(norm).reason == "failed"


def test_a_kernel_that_hangs_is_given_up_and_the_next_one_checked():
    norm, glu = examine("hangs", Limits(total=200.0, silence=12.0, start=100.0))
    assert norm.failure == "no result within 12 s"
    assert decide(norm).reason == "failed"
    assert len(glu.measures) == 4


def test_full_memory_says_nothing_about_the_kernel():
    norm, _ = examine("out_of_memory")
    assert decide(norm).reason == "unchecked"
    assert not norm.lasting, "the next load tries again"


def test_a_process_that_does_not_start_leaves_all_unchecked():
    found = examine("does_not_start")
    assert [decide(one).reason for one in found] == ["unchecked", "unchecked"]
    assert "no CUDA-capable device" in decide(found[0]).why


def test_the_time_of_all_checks_is_bounded():
    found = examine("is_silent", Limits(total=0.5, silence=100.0, start=100.0))
    assert [one.failure for one in found] == ["not reached within 0 s"] * 2
    assert not any(one.lasting for one in found)


def test_what_libraries_print_is_no_answer():
    assert [len(one.measures) for one in examine("chatty")] == [4, 4]


def test_the_compiled_kernels_on_an_emulated_gpu():
    pytest.importorskip("triton")
    needs = [
        NORM,
        Need("add_rms_norm", (64,), "bfloat16"),
        Need("rope", (2, 1, 16), "float16"),
        GLU,
        Need("linear_4bit", (64, 128, 64, 256), "bfloat16", "nf4"),
    ]
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.first_use.emulated_worker"]
    for one in examine_all(needs, "cpu", PATIENT, print, command):
        assert decide(one).reason in ("right", "slower"), one
        assert len(one.measures) == 2
