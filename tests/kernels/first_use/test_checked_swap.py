"""A model gets the kernels that are right and not slower; the report says so of each operation."""

import pytest

pytest.importorskip("transformers")

from mdl import kernels
from mdl.kernels.first_use import Finding, Measure, Record, apply_checked
from mdl.kernels.first_use.record import Identity
from mdl.kernels.swap import Need, needs_of
from tests.kernels import models

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own
H100 = Identity("NVIDIA H100", "9.0", "570.1", "2.11", "3.9", "0.50", "0.2.0")
WHEN = "2026-11-29T09:00:00+00:00"


def found(need, error=0.0, other_ms=2.0, **more):
    measures = (Measure(1, False, error, 1.0, other_ms, "torch"),)
    return Finding(need, measures, checked_at=WHEN, **more)


def proving(**by_operation):
    """A `prove` that finds all kernels twice as fast, but for those that are named."""

    def prove(needs, device, home, progress):
        return Record(
            H100, {need: found(need, **by_operation.get(need.operation, {})) for need in needs}
        )

    return prove


def apply_to(model, **by_operation):
    return apply_checked(model, "/nowhere", prove=proving(**by_operation))


def by_name(checked):
    return {one.operation: one for one in checked.operations}


def test_all_that_is_right_goes_in():
    model = models.tiny("llama")
    checked = apply_to(model)
    assert checked.applied.counts == kernels.apply(models.tiny("llama")).counts
    assert checked.warnings == ()
    norm = by_name(checked)["rms_norm"]
    assert (norm.modules_in, norm.modules_out) == (5, 0)
    assert str(norm) == (
        "rms_norm: in 5 modules; times faster than torch: 2.00 at 1 row; "
        "checked 2026-11-29 on NVIDIA H100"
    )


def test_wrong_and_failing_kernels_stay_out_with_a_warning():
    checked = apply_to(
        models.tiny("llama"), rope={"error": 0.5}, glu={"failure": "no result within 20 s"}
    )
    assert "rope" not in checked.applied.counts
    assert "glu" not in checked.applied.counts
    assert checked.warnings == (
        "kernel rope 4x2x16 float32: wrong at 1 row: off by 0.5, 0.0002 allowed; "
        "torch computes it, and mdl kernels check tries again",
        "kernel glu 128 silu float32: failed: no result within 20 s; "
        "torch computes it, and mdl kernels check tries again",
    )
    assert by_name(checked)["rope"].modules_out == 2


def test_what_was_not_reached_is_one_warning():
    late = {"failure": "not reached within 60 s", "lasting": False}
    checked = apply_to(models.tiny("llama"), rope=late, glu=late)
    assert checked.warnings == (
        "kernels rope 4x2x16 float32, glu 128 silu float32: not checked: not reached within 60 s; "
        "torch computes it, and the next load tries again",
    )


def test_a_slow_kernel_stays_out_with_a_line_in_the_report():
    checked = apply_to(models.tiny("llama"), rms_norm={"other_ms": 0.5})
    assert checked.warnings == ()
    assert by_name(checked)["rms_norm"].why == ("slower: 0.50 x torch",)


def test_one_size_may_go_in_and_another_stay_out():
    pytest.importorskip("bitsandbytes")
    model = models.quantized(models.tiny("llama"))

    def prove(needs, device, home, progress):
        slow = [need for need in needs if need.sizes[:2] == (64, 128)]
        assert len(slow) == 1
        return Record(
            H100, {need: found(need, other_ms=0.5 if need in slow else 2.0) for need in needs}
        )

    checked = apply_checked(model, "/nowhere", prove=prove)
    linear = by_name(checked)["linear_4bit"]
    assert (linear.modules_in, linear.modules_out) == (12, 2)


def test_what_is_skipped_is_not_checked():
    model = models.tiny("llama")
    checked = apply_checked(model, "/nowhere", skip="rope", prove=proving())
    assert "rope" not in checked.applied.counts
    assert by_name(checked)["rope"].why == ("not asked for",)
    assert by_name(checked)["rope"].devices == ()


@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_sizes_of_every_family_are_read(family):
    """Whatever `apply` would put in has needs, of known operations."""
    model = models.tiny(family)
    wanted = [one.name for one in kernels.ls()]
    needs = needs_of(model, wanted)
    assert {need.operation for need in needs} == set(kernels.apply(model).counts)
    assert all(need.dtype == "float32" for need in needs)


def test_needs_of_a_quantized_model_with_an_adapter():
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    model = models.with_lora(models.quantized(models.tiny("llama")))
    needs = needs_of(model, ["linear_4bit", "lora_4bit"])
    nested = needs[0].sizes[3]
    assert Need("lora_4bit", (128, 64, 64, nested, 8), "float32", "nf4") in needs
    assert Need("linear_4bit", (64, 128, 64, nested), "float32", "nf4") in needs
