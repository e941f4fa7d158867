"""The torch reference of 4-bit dequantization is bitsandbytes' CPU path, bit for bit."""

import copy

import pytest
import torch
import torch._dynamo
from hypothesis import given, settings
from hypothesis import strategies as st

import mdl.kernels as kernels
from mdl.errors import UsageError
from mdl.kernels.nf4 import packed as nf4_layout
from mdl.kernels.nf4.quantize import dequantize_4bit_into

functional = pytest.importorskip("bitsandbytes.functional")


@pytest.fixture(scope="module", autouse=True)
def uncompiled_reference():
    """bitsandbytes compiles its path for odd widths anew for each shape, which takes seconds."""
    with torch._dynamo.config.patch(disable=True):
        yield


DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def quantized(shape, dtype=torch.float32, quant_type="nf4", blocksize=64, nested=True, seed=0):
    """A weight as bitsandbytes packs it, and its state."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return functional.quantize_4bit(
        weight, blocksize=blocksize, compress_statistics=nested, quant_type=quant_type
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [True, False])
def test_equals_bitsandbytes(dtype, quant_type, nested):
    packed, state = quantized((96, 130), dtype, quant_type, nested=nested)
    ours = kernels.dequantize_4bit(kernels.Packed4bit.from_bitsandbytes(packed, state))
    assert torch.equal(ours, functional.dequantize_4bit(packed, state))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    blocksize=st.sampled_from([32, 64, 128, 4096]),
    nested=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_equals_bitsandbytes_for_any_shape(rows, columns, blocksize, nested, dtype):
    """Odd element counts, blocks that span rows, a short last block.

    Against bitsandbytes' portable code: its AVX-512 path takes wrong scales where blocks span rows
    whose length is a multiple of 16.
    """
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    packed, state = quantized((rows, columns), dtype, "nf4", blocksize, nested)
    absmax = state.absmax
    if nested:
        absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
    theirs = _dequantize_4bit_compute(
        packed.view(-1), absmax, state.code, blocksize, (rows, columns), dtype
    )
    ours = kernels.dequantize_4bit(kernels.Packed4bit.from_bitsandbytes(packed, state))
    assert torch.equal(ours, theirs.view(rows, columns))


def test_longer_than_one_chunk():
    """Chunks of the reference meet at block borders without a seam."""
    packed, state = quantized((1031, 515))
    ours = kernels.dequantize_4bit(kernels.Packed4bit.from_bitsandbytes(packed, state))
    assert torch.equal(ours, functional.dequantize_4bit(packed, state))


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16, torch.float32])
def test_reads_any_quant_storage(storage):
    weight = torch.randn(64, 64)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", quant_storage=storage)
    ours = kernels.dequantize_4bit(kernels.Packed4bit.from_bitsandbytes(packed, state))
    assert packed.dtype == storage
    assert torch.equal(ours, functional.dequantize_4bit(packed.view(torch.uint8), state))


def plainly(weight, dtype):
    """The definition, element by element: code[nibble] times its block's scale, rounded once."""
    both = torch.stack([weight.packed >> 4, weight.packed & 15], dim=1).view(-1).long()
    outer = weight.nested.absmax.repeat_interleave(256)[: weight.absmax.numel()]
    scale = weight.nested.code[weight.absmax.long()] * outer + weight.nested.offset
    each = scale.repeat_interleave(weight.blocksize)[: weight.numel]
    values = nf4_layout.code(weight.quant_type, torch.device("cpu"))[both][: weight.numel]
    return (values * each).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocksize", [32, 64, 1024, 4096])
@pytest.mark.parametrize("rest", [0, 1, 4101])
def test_several_chunks_two_threads_and_a_short_last_block(dtype, blocksize, rest):
    n = 2_200_000 // blocksize * blocksize + rest  # over 4 MiB in 16 bits, over two million
    tensor = torch.randn(n, generator=torch.Generator().manual_seed(n))
    weight = kernels.quantize_4bit(tensor, blocksize=blocksize)
    ours, exact = kernels.dequantize_4bit(weight, dtype), plainly(weight, dtype)
    assert torch.equal(ours.view(torch.uint8), exact.view(torch.uint8))


def test_bytes_and_results_that_begin_at_odd_places():
    weight = kernels.quantize_4bit(torch.randn(640), nested=False)
    moved = torch.empty(weight.packed.numel() + 1, dtype=torch.uint8)
    moved[1:] = weight.packed
    same = kernels.Packed4bit(moved[1:], weight.absmax, (640,), torch.float32)
    for dtype in DTYPES:
        out = torch.zeros(641, dtype=dtype)
        dequantize_4bit_into(same, out[1:])
        assert torch.equal(out[1:], kernels.dequantize_4bit(weight, dtype))


def test_a_large_result_is_a_tensor_like_any_other(tmp_path):
    """Its memory comes from the system in huge pages where the system has them."""
    weight = kernels.quantize_4bit(torch.randn(1100, 1024))
    result = kernels.dequantize_4bit(weight)
    kept = result.clone()
    del weight
    assert result.is_contiguous()
    assert result.shape == (1100, 1024)
    torch.save(result, tmp_path / "result.pt")
    for other in (copy.deepcopy(result), torch.load(tmp_path / "result.pt")):
        assert torch.equal(other, kept)
    result.requires_grad_().square().sum().backward()
    assert torch.equal(result.grad, 2 * kept)
    part = result.detach()[3:5]
    del result
    assert torch.equal(part, kept[3:5])  # the memory lives as long as a view of it


def test_another_dtype_rounds_once():
    packed, state = quantized((64, 64), torch.float32)
    weight = kernels.Packed4bit.from_bitsandbytes(packed, state)
    exact = kernels.dequantize_4bit(weight)
    assert torch.equal(kernels.dequantize_4bit(weight, torch.bfloat16), exact.bfloat16())


def test_infinite_and_nan_scales_pass_through():
    packed, state = quantized((4, 64), nested=False)
    state.absmax[1], state.absmax[2] = float("inf"), float("nan")
    weight = kernels.Packed4bit.from_bitsandbytes(packed, state)
    ours, theirs = kernels.dequantize_4bit(weight), functional.dequantize_4bit(packed, state)
    assert torch.equal(ours.nan_to_num(nan=7.0), theirs.nan_to_num(nan=7.0))


def test_empty():
    weight = kernels.Packed4bit(
        torch.empty(0, dtype=torch.uint8), torch.empty(0), (0, 64), torch.float16
    )
    assert kernels.dequantize_4bit(weight).shape == (0, 64)


def test_a_weight_with_missing_scales_is_refused():
    packed, state = quantized((64, 64))
    state.absmax = state.absmax[:-1]
    with pytest.raises(UsageError, match="incomplete"):
        kernels.dequantize_4bit(kernels.Packed4bit.from_bitsandbytes(packed, state))


@pytest.mark.parametrize(
    ("change", "match"),
    [({"quant_type": "nf3"}, "nf3"), ({"blocksize": 48}, "48"), ({"dtype": torch.int8}, "int8")],
)
def test_a_format_that_does_not_exist_is_refused(change, match):
    parts = {"quant_type": "nf4", "blocksize": 64, "dtype": torch.float16, **change}
    weight = kernels.Packed4bit(torch.zeros(32, dtype=torch.uint8), torch.ones(1), (64,), **parts)
    with pytest.raises(UsageError, match=match):
        kernels.dequantize_4bit(weight)


def test_the_custom_operator_has_a_correct_fake():
    packed, state = quantized((8, 64), torch.float16)
    nested = state.state2
    arguments = (packed.view(-1), state.absmax, nested.code, nested.absmax, state.offset)
    torch.library.opcheck(
        torch.ops.mdl.dequantize_4bit.default,
        (*arguments, [8, 64], 64, 256, "nf4", torch.float16),
    )
