"""What the kernels do to memory stays within what was found possible."""

import pytest

from mdl.kernels.compiled.compile import is_budgeted
from tests.ptx_emulator.plugin import DRIVER
from tests.ptx_emulator.traffic import measure

SHARES = {
    "product, 1 row": 0.80,
    "product, 8 rows": 0.55,
    "product, 16 rows": 0.65,
    "product, 32 rows": 0.70,
    "product, 64 rows": 0.90,
    "dequantize": 0.20,
    "quantize": 0.10,
}
"""Most time of shared memory, over that of an H100's memory; with an older Triton it may be 1."""
ONCE = {
    "RMSNorm": 1.55,
    "RMSNorm with residual": 1.30,
    "rotary": 1.10,
    "SwiGLU": 1.0,
    "cross-entropy": 1.01,
    "cross-entropy backward": 1.05,
}
"""Bytes touched over those that must move: each row reads the gain, each head its angles."""


@pytest.fixture(scope="module")
def found():
    return {one.name: one for one in measure(DRIVER)}


@pytest.mark.parametrize("name", SHARES)
def test_shared_memory_is_not_what_a_kernel_waits_for(name, found):
    one = found[name]
    assert 0 < one.share < (SHARES[name] if is_budgeted() else 1.0)
    if (plain := f"{name}, plain scales") in found:
        assert found[plain].share < one.share  # less to decode


@pytest.mark.parametrize("name", ONCE)
def test_a_layer_touches_no_more_of_global_memory_than_it_must(name, found):
    one = found[name]
    assert one.sectors == one.fewest_sectors
    assert one.least <= 32 * one.sectors <= ONCE[name] * one.least


@pytest.mark.parametrize(("name", "most"), [("dequantize", 1.1), ("quantize", 1.4)])
def test_a_format_is_read_and_written_in_whole_pieces(name, most, found):
    """What is more than the fewest are the tables' entries, which the caches answer."""
    assert found[name].sectors < most * found[name].fewest_sectors
