"""The GEMV and GEMM kernels in the interpreter, against the dense product."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mdl.kernels as kernels
from mdl.kernels.ops.linear4bit import choose, loop_of
from tests.kernels.weights import packed_weight, rows

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def reference(x, weight, bias=None):
    """The product in float64, with the weight as the reference decodes it."""
    dense = kernels.dequantize_4bit(weight, torch.float32).double()
    result = x.double() @ dense.T
    return result if bias is None else result + bias.double()


def assert_near(ours, exact, dtype):
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), exact, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@settings(max_examples=24, deadline=None)
@given(
    n=st.integers(1, 40),
    k=st.one_of(st.integers(1, 6).map(lambda blocks: 64 * blocks), st.integers(1, 200)),
    m=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    blocksize=st.sampled_from([32, 64, 256, 4096]),
    nested=st.booleans(),
    bias=st.booleans(),
)
def test_any_shape(n, k, m, dtype, blocksize, nested, bias):
    """Also where blocks span rows, and where one block is longer than a row, or than all rows."""
    weight = packed_weight(n, k, dtype, blocksize=blocksize, nested=nested)
    x = rows(m, k, dtype, seed=m)
    b = rows(1, n, dtype, seed=1)[0] if bias else None
    assert_near(kernels.linear_4bit(x, weight, b), reference(x, weight, b), dtype)


@pytest.mark.parametrize("k", [320, 512, 1024])  # the last two fill every turn of every kernel
@pytest.mark.parametrize(("n", "m"), [(70, 1), (70, 2), (16, 2), (40, 12), (40, 20), (40, 50)])
def test_every_height_with_whole_and_with_ragged_turns(n, m, k):
    weight = packed_weight(n, k, torch.float16)
    x = rows(m, k, torch.float16)
    assert choose(m, weight.shape, x.dtype, 64, False) == ("gemv" if m == 1 else "gemm")
    assert loop_of(k, 64, 256, 128, split=4)["EVEN"] == (k != 320)
    assert_near(kernels.linear_4bit(x, weight), reference(x, weight), torch.float16)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("blocksize", [32, 128, 256, 512, 1024, 2048, 4096])
def test_formats_and_block_sizes(quant_type, blocksize):
    weight = packed_weight(24, 256, torch.float16, blocksize=blocksize, quant_type=quant_type)
    for m in (1, 3):
        x = rows(m, 256, torch.float16)
        assert_near(kernels.linear_4bit(x, weight), reference(x, weight), torch.float16)


@pytest.mark.parametrize("k", [96, 80, 72, 68, 66])
@pytest.mark.parametrize(("n", "m"), [(40, 1), (16, 2), (70, 2), (40, 20), (40, 50)])
def test_blocks_that_span_rows(k, n, m):
    """In pieces of 32, 16, 8, 4 and 2, through every kernel."""
    weight = packed_weight(n, k, torch.float16)
    x = rows(m, k, torch.float16)
    assert choose(m, weight.shape, x.dtype, 64, False) == ("gemv" if m == 1 else "gemm")
    assert_near(kernels.linear_4bit(x, weight), reference(x, weight), torch.float16)


def test_strided_and_unaligned_input():
    weight = packed_weight(24, 64, torch.float16)
    wide = rows(6, 131, torch.float16)
    for x in (wide[:, 1:65], wide[::2, 3:67], wide[2:3, 1:65]):
        assert_near(kernels.linear_4bit(x, weight), reference(x, weight), torch.float16)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, on NaN and infinity
def test_a_nan_stays_in_its_row():
    weight = packed_weight(24, 128, torch.float16)
    x = rows(3, 128, torch.float16)
    x[1, 5] = float("nan")
    y = kernels.linear_4bit(x, weight)
    assert y[1].isnan().all()
    assert not y[[0, 2]].isnan().any()


def test_batch_invariant_rows_do_not_see_each_other():
    weight, x = packed_weight(24, 128, torch.float16), rows(20, 128, torch.float16)
    together = kernels.linear_4bit(x, weight, batch_invariant=True)
    for i in (0, 7, 19):
        alone = kernels.linear_4bit(x[i : i + 1], weight, batch_invariant=True)
        assert torch.equal(alone[0], together[i])


def test_gradient():
    weight = packed_weight(24, 128)
    x = rows(3, 128).requires_grad_()
    kernels.linear_4bit(x, weight).sum().backward()
    dense = kernels.dequantize_4bit(weight)
    torch.testing.assert_close(x.grad, dense.sum(0).expand(3, -1))
