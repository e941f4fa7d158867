"""The Triton quantize kernels in the interpreter, against the torch reference, byte for byte."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdl.kernels.nf4.quantize import _quantize_8bit_on_triton, _quantize_on_triton
from mdl.kernels.nf4.reference import reference_quantize_4bit, reference_quantize_8bit


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 70000),
    blocksize=st.sampled_from([32, 64, 4096]),
    quant_type=st.sampled_from(["nf4", "fp4"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_bytes_equal_the_reference(n, blocksize, quant_type, dtype):
    make = torch.Generator().manual_seed(n)
    flat = torch.randn(n, generator=make).to(dtype)
    assert_same(
        _quantize_on_triton(flat, blocksize, quant_type),
        reference_quantize_4bit(flat, blocksize, quant_type),
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, on NaN and infinity
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 1e-39])
def test_special_values(value):
    flat = torch.randn(320, generator=torch.Generator().manual_seed(0))
    flat[64:128], flat[200] = value, value
    assert_same(_quantize_on_triton(flat, 64, "nf4"), reference_quantize_4bit(flat, 64, "nf4"))
    assert_same(_quantize_8bit_on_triton(flat, 256), reference_quantize_8bit(flat, 256))


def test_nested_scales():
    values = torch.randn(3000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert_same(_quantize_8bit_on_triton(values, 256), reference_quantize_8bit(values, 256))
