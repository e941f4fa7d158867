"""Quantizing to 4 bits gives bitsandbytes' CPU bytes, all of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mdl.kernels as kernels
from mdl.errors import UsageError
from mdl.kernels.nf4 import tables as nf4_tables

functional = pytest.importorskip("bitsandbytes.functional")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def assert_same_bytes(tensor, **how):
    """Packed weight, scales, nested scales and offset equal bitsandbytes', NaN included."""
    ours = kernels.quantize_4bit(tensor, **how)
    packed, state = functional.quantize_4bit(
        tensor,
        blocksize=how.get("blocksize", 64),
        quant_type=how.get("quant_type", "nf4"),
        compress_statistics=how.get("nested", True),
    )
    assert torch.equal(ours.packed, packed.view(-1))
    pairs = [(ours.absmax, state.absmax)]
    if ours.nested is not None:
        pairs.append((ours.nested.absmax, state.state2.absmax))
        pairs.append((ours.nested.offset, state.offset))
        pairs.append((ours.nested.code, state.state2.code))
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5000),
    blocksize=st.sampled_from([32, 64, 128, 4096]),
    quant_type=st.sampled_from(["nf4", "fp4"]),
    nested=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    exponent=st.integers(-7, 4),
)
def test_bytes_equal_bitsandbytes(n, blocksize, quant_type, nested, dtype, exponent):
    make = torch.Generator().manual_seed(n)
    tensor = (torch.randn(n, generator=make) * 10.0**exponent).to(dtype)
    assert_same_bytes(tensor, blocksize=blocksize, quant_type=quant_type, nested=nested)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -float("inf"), 1e-39])
def test_blocks_of_special_values(dtype, value):
    tensor = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    tensor[1], tensor[3, 7], tensor[4, :3] = value, value, value
    assert_same_bytes(tensor.to(dtype), nested=False)
    assert_same_bytes(tensor.to(dtype), quant_type="fp4", nested=True)


def test_an_all_zero_block_packs_to_0x77():
    packed = kernels.quantize_4bit(torch.zeros(64), nested=False).packed
    assert set(packed.tolist()) == {0x77}


def test_values_on_and_beside_every_boundary():
    """A value at a midpoint takes the lower code; one ulp above it takes the upper."""
    middle, _ = nf4_tables.bounds("nf4", torch.device("cpu"))
    up, down = (torch.nextafter(middle, torch.tensor(end)) for end in (1.0, -1.0))
    tensor = torch.cat([torch.ones(1), middle, up, down, torch.zeros(18)])
    assert_same_bytes(tensor, nested=False)
    index = kernels.quantize_4bit(tensor, nested=False).packed
    nibbles = torch.stack([index >> 4, index & 15], 1).view(-1)
    assert nibbles[1:16].tolist() == list(range(15))
    assert nibbles[16:31].tolist() == list(range(1, 16))


def test_longer_than_one_chunk_and_not_contiguous():
    tensor = torch.randn(530, 1030, generator=torch.Generator().manual_seed(1)).t()
    assert_same_bytes(tensor)


def test_the_dynamic_code_equals_bitsandbytes():
    ours = nf4_tables.dynamic_code(torch.device("cpu"))
    assert torch.equal(ours, functional.create_dynamic_map())


def test_round_trip_through_bitsandbytes_state():
    tensor = torch.randn(32, 64, dtype=torch.bfloat16)
    weight = kernels.quantize_4bit(tensor)
    packed, state = weight.to_bitsandbytes()
    assert torch.equal(functional.dequantize_4bit(packed, state), kernels.dequantize_4bit(weight))


def test_integers_are_refused():
    with pytest.raises(UsageError, match="int32"):
        kernels.quantize_4bit(torch.ones(64, dtype=torch.int32))
