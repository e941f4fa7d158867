"""Every kernel compiles for every target without spilling, and within its instruction budget."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("triton")

from mdl.kernels.aot import CAPABILITIES, compile_variant, count_instructions
from mdl.kernels.variants import variants


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_spills_and_within_budget(capability):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda variant: compile_variant(variant, capability), variants()))
    assert found
    problems = {one.variant: one.problems for one in found if one.problems}
    assert not problems
    assert all(one.registers > 0 for one in found)


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
