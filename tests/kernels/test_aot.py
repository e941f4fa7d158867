"""Every kernel compiles for every target without spilling, and within its instruction budget."""

from dataclasses import replace

import pytest

pytest.importorskip("triton")

from mdl.errors import VerificationError
from mdl.kernels.compiled.compile import (
    CAPABILITIES,
    compile_jobs,
    compiler_pool,
    count_instructions,
)
from mdl.kernels.compiled.variants import variants


@pytest.fixture(scope="module")
def pool():
    with compiler_pool() as running:
        yield running


def compiled(pool, capability, chosen):
    """The resources of the chosen variants on one target.

    Only those with a budget are disassembled, which takes as long as to compile.
    """
    jobs = [
        (one if capability in one.budget else replace(one, elements=0), capability)
        for one in chosen
    ]
    return compile_jobs(pool, jobs)


def assert_clean(found):
    assert found
    assert all(one.registers > 0 for one in found)
    assert not {one.variant: one.problems for one in found if one.problems}


@pytest.mark.slow
def test_no_spills_and_within_budget_in_every_dtype(pool):
    assert_clean(compiled(pool, 90, variants(90)))


@pytest.mark.parametrize(
    "capability",
    [
        pytest.param(one, marks=[pytest.mark.slow] if one in (80, 100) else [])
        for one in CAPABILITIES
        if one != 90
    ],
)
def test_no_spills_and_within_budget(pool, capability):
    """In bfloat16 and blocks of 64; `python -m benchmarks.kernels_aot` compiles all of them."""
    others = (
        "fp16",
        "fp32",
        *(f"bf16-block{one}" for one in ("32-", "128-", "4096-r", "4096-B", "64-K")),
    )
    chosen = [one for one in variants(capability) if not one.detail.startswith(others)]
    assert_clean(compiled(pool, capability, chosen))


def other_arguments(variant, constants, types):
    """The variant as Triton specialises it: sizes of one become constants, large ones 64-bit."""
    kept = {name: types.get(name, kind) for name, kind in variant.types.items()}
    for name in constants:
        del kept[name]
    return replace(variant, types=kept, constants={**variant.constants, **constants}, elements=0)


ONES = {
    "gemm_4bit_16": ["M"],
    "gemm_4bit_32": ["M"],
    "norm_forward": ["rows"],
    "norm_backward": ["rows"],
    "rope": ["tokens", "q_heads", "k_heads", "q_head", "k_head"],
    "quantize_8bit": ["n"],
}
LARGE = {
    "dequantize_4bit": ["n"],
    "quantize_4bit": ["n"],
    "cross_entropy": ["stride"],
    "norm_forward": ["x_stride"],
}


def test_decoding_one_token_and_tensors_past_two_billion_elements(pool):
    """Triton compiles anew for a size of one (it becomes a constant) and for 64-bit sizes."""
    chosen = {}
    for variant in variants(90):
        if variant.operation in ONES:
            ones = dict.fromkeys(ONES[variant.operation], 1)
            chosen[variant.operation, "one"] = other_arguments(variant, ones, {})
        if variant.operation in LARGE:
            wide = dict.fromkeys(LARGE[variant.operation], "i64")
            chosen[variant.operation, "large"] = other_arguments(variant, {}, wide)
    assert len(chosen) == len(ONES) + len(LARGE)
    assert_clean(compiled(pool, 90, chosen.values()))


def test_a_kernel_that_does_not_compile_is_named(pool):
    whole = variants(90)[0]
    wrong = replace(whole, constants={**whole.constants, "GROUPS": 3})
    with pytest.raises(VerificationError, match=f"{whole.name} does not compile for sm_90"):
        compile_jobs(pool, [(wrong, 90)])


def test_instructions_of_the_longest_loop_are_counted():
    sass = """
        /*0000*/  MOV R1, c[0x0][0x28] ;
        /*0010*/  LDG.E R0, [R2] ;
        /*0020*/  FADD R0, R0, R1 ;
        /*0030*/  @P0 BRA 0x10 ;
        /*0040*/  EXIT ;
        /*0050*/  BRA 0x50 ;
        /*0060*/  NOP ;
    """
    assert count_instructions(sass) == (6, 3)
