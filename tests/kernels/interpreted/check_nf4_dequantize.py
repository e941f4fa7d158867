"""The Triton dequantize kernel in the interpreter, against the torch reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdl.kernels.nf4.packed import Nested, Packed4bit, blocks_of
from mdl.kernels.nf4.quantize import dequantize_4bit
from mdl.kernels.nf4.reference import reference_dequantize_4bit
from mdl.kernels.runtime import launch


def packed_weight(n, dtype, blocksize=64, nested=True, quant_type="nf4", seed=0):
    """A 4-bit weight of `n` elements with random bytes and scales."""
    make = torch.Generator().manual_seed(seed)
    blocks = blocks_of(n, blocksize)
    data = torch.randint(0, 256, ((n + 1) // 2,), dtype=torch.uint8, generator=make)
    if not nested:
        absmax = torch.rand(blocks, generator=make)
        return Packed4bit(data, absmax, (n,), dtype, blocksize, quant_type)
    absmax = torch.randint(0, 256, (blocks,), dtype=torch.uint8, generator=make)
    second = Nested(
        torch.rand(blocks_of(blocks, 256), generator=make),
        torch.rand(256, generator=make) * 2 - 1,
        torch.rand((), generator=make),
    )
    return Packed4bit(data, absmax, (n,), dtype, blocksize, quant_type, second)


def by_reference(weight):
    return reference_dequantize_4bit(weight, torch.empty(weight.shape, dtype=weight.dtype))


def test_this_process_interprets():
    assert launch.on_triton(torch.zeros(1))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 70000),
    blocksize=st.sampled_from([32, 64, 256, 4096]),
    nested=st.booleans(),
    quant_type=st.sampled_from(["nf4", "fp4"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_bit_equal_to_the_reference(n, blocksize, nested, quant_type, dtype):
    weight = packed_weight(n, dtype, blocksize, nested, quant_type, seed=n)
    assert torch.equal(dequantize_4bit(weight), by_reference(weight))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, on inf * 0
def test_unaligned_bytes_and_infinite_scales():
    weight = packed_weight(640, torch.float32, nested=False)
    weight.absmax[1], weight.absmax[2] = float("inf"), float("nan")
    odd = torch.empty(weight.packed.numel() + 1, dtype=torch.uint8)
    odd[1:] = weight.packed
    moved = Packed4bit(odd[1:], weight.absmax, (640,), torch.float32)
    assert torch.equal(dequantize_4bit(moved).nan_to_num(5), by_reference(weight).nan_to_num(5))


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_bit_equal_to_bitsandbytes(quant_type):
    functional = pytest.importorskip("bitsandbytes.functional")
    packed, state = functional.quantize_4bit(
        torch.randn(96, 130), compress_statistics=True, quant_type=quant_type
    )
    ours = dequantize_4bit(Packed4bit.from_bitsandbytes(packed, state))
    assert torch.equal(ours, functional.dequantize_4bit(packed, state))
