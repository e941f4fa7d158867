"""The 4-bit linear layer: bitsandbytes' numbers, gradients, and which way a product goes."""

import pytest
import torch
from torch.nn import functional

import mdl.kernels as kernels
from mdl.errors import UsageError
from mdl.kernels.ops.linear4bit import (
    choose,
    gemm_height,
    gemm_plan,
    gemm_tile,
    is_narrow,
    pairs_of,
    pieces_of,
    rows_of,
)
from mdl.kernels.runtime.launch import Scratch
from mdl.kernels.runtime.launch_configs import Config
from tests.kernels.weights import packed_weight, rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_bitsandbytes(dtype, bias):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weight = packed_weight(48, 128, dtype)
    packed, state = weight.to_bitsandbytes()
    x, b = rows(5, 128, dtype), rows(1, 48, dtype)[0] if bias else None
    theirs = bitsandbytes.matmul_4bit(x, packed, bias=b, quant_state=state)
    assert torch.equal(kernels.linear_4bit(x, weight, b), theirs)


@pytest.mark.parametrize("k", [128, 72, 33])
def test_gradients_equal_a_dense_layer(k):
    """Also where blocks span rows and where a row has an odd number of elements."""
    weight = packed_weight(40, k)
    dense = kernels.dequantize_4bit(weight)
    x, bias = rows(6, k).view(2, 3, k), rows(1, 40)[0]
    leaves = [[x.clone().requires_grad_(), bias.clone().requires_grad_()] for _ in range(2)]
    kernels.linear_4bit(leaves[0][0], weight, leaves[0][1]).square().sum().backward()
    functional.linear(leaves[1][0], dense, leaves[1][1]).square().sum().backward()
    for ours, theirs in zip(*leaves, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_backward_pass_keeps_no_dense_weight():
    weight = packed_weight(64, 64)
    y = kernels.linear_4bit(rows(4, 64).requires_grad_(), weight)
    kept = sum(
        one.numel() * one.element_size() for one in y.grad_fn.saved_tensors if one is not None
    )
    assert kept < 64 * 64 + 256 * 4 + 64  # the packed bytes, the scales and their code


def test_empty_input():
    weight = packed_weight(48, 64)
    assert kernels.linear_4bit(torch.empty(0, 64), weight).shape == (0, 48)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"\[48, 64\] cannot multiply \[2, 48\]"):
        kernels.linear_4bit(torch.ones(2, 48), packed_weight(48, 64))


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # Dynamo
def test_compiles_without_graph_breaks():
    weight, bias = packed_weight(48, 64), rows(1, 48)[0]

    def step(x):
        return kernels.linear_4bit(x, weight, bias).square().sum()

    x = rows(3, 64).requires_grad_()
    eager = torch.autograd.grad(step(x), x)[0]
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert torch.equal(torch.autograd.grad(compiled(x), x)[0], eager)


@pytest.mark.parametrize(
    ("rows_of_x", "k", "dtype", "invariant", "way"),
    [
        (1, 128, torch.bfloat16, False, "gemv"),
        (1, 128, torch.bfloat16, True, "gemm"),
        (2, 128, torch.float16, False, "gemm"),
        (64, 128, torch.bfloat16, False, "gemm"),
        (65, 128, torch.bfloat16, False, "dense"),
        (5000, 128, torch.bfloat16, True, "gemm"),
        (1, 128, torch.float32, False, "gemv"),
        (2, 128, torch.float32, False, "dense"),
        (1, 72, torch.bfloat16, False, "gemv"),  # blocks span rows
        (1, 72, torch.bfloat16, True, "gemm"),
        (1, 33, torch.bfloat16, False, "dense"),  # rows begin in the middle of a byte
        (0, 128, torch.bfloat16, False, "dense"),
    ],
)
def test_which_way_a_product_goes_on_a_gpu(rows_of_x, k, dtype, invariant, way):
    assert choose(rows_of_x, (32, k), dtype, 64, invariant) == way


@pytest.mark.parametrize(
    ("k", "blocksize", "width", "taken"),
    [
        (4096, 64, 1024, (32, 0, 16)),  # 16 whole blocks of 64
        (4096, 32, 128, (16, 0, 4)),
        (4096, 4096, 128, (64, 5, 1)),  # a 32nd of a block
        (4096, 128, 64, (32, 1, 1)),
        (4000, 64, 128, (16, 1, 4)),  # halves: no row ends inside one
        (72, 64, 128, (4, 3, 4)),  # few small pieces, each with a scale of its own
        (3422, 4096, 1024, (1, 11, 16)),
    ],
)
def test_how_a_row_is_taken_in_pieces_within_blocks(k, blocksize, width, taken):
    found = pieces_of(k, blocksize, width)
    assert (found["HALF"], found["SHIFT"], found["GROUPS"]) == taken
    piece = 2 * found["HALF"]
    assert k % piece == 0
    assert piece << found["SHIFT"] == blocksize


def test_a_program_takes_fewer_rows_when_there_are_few():
    gemv = Config({"BN": 4, "PROGRAMS": 1024})
    assert [rows_of(n, gemv) for n in (14336, 4096, 2048, 1024, 8)] == [4, 4, 2, 1, 1]
    gemm = Config({"BN": 64, "PROGRAMS": 128, "SPLIT": 4})
    tiles = [gemm_tile(n, 32, gemm) for n in (14336, 4096, 1024, 8)]
    assert tiles == [(64, 4), (32, 8), (16, 8), (16, 8)]  # and twice the slices of k
    assert gemm_tile(14336, 4, gemm) == (16, 4)  # a scale for each 8 elements
    whole = Config({"BN": 128, "PROGRAMS": 100, "SPLIT": 1})
    assert [gemm_tile(n, 32, whole) for n in (14336, 8192)] == [(128, 1), (64, 1)]


def test_a_narrow_weight_has_a_configuration_of_its_own():
    chosen = Config({"PROGRAMS": 100})
    assert [is_narrow("gemm_4bit_64", n, 32, chosen) for n in (8192, 4096)] == [False, True]
    assert not is_narrow("gemm_4bit_64", 4096, 4, chosen)  # a scale for each 8 elements
    assert not is_narrow("gemm_4bit_8", 4096, 32, chosen)  # its rows are halved instead


def test_a_gemm_program_has_the_lowest_height_that_takes_the_rows():
    assert [gemm_height(rows, False) for rows in (2, 8, 9, 32, 33, 65)] == [8, 8, 16, 32, 64, 64]
    assert {gemm_height(rows, True) for rows in (1, 2, 50, 500)} == {16}


def test_the_warps_of_a_gemm_program_follow_from_its_tile():
    sliced = gemm_plan(
        Config({"BN": 64, "PROGRAMS": 1, "SPLIT": 4, "WEIGHTS": 128}), 8, 64, 64, 64, 0
    )
    assert (sliced.config.num_warps, sliced.constants["CORE"]) == (4, 8)
    hopper = Config({"BN": 128, "PROGRAMS": 2, "SPLIT": 1, "WEIGHTS": 128, "CORE": 9})
    whole = gemm_plan(hopper, 64, 256, 64, 64, 0)
    assert (whole.config.num_warps, whole.constants["CORE"]) == (8, 9)
    halved = gemm_plan(hopper, 64, 64, 64, 64, 0)
    assert (halved.config.num_warps, halved.constants["CORE"]) == (2, 8)  # too few for wgmma


def test_pairs_hold_the_even_element_in_the_low_half():
    x = torch.arange(6, dtype=torch.int16).view(torch.bfloat16)
    assert pairs_of(x).tolist() == [0x00010000, 0x00030002, 0x00050004]
    assert pairs_of(x[1:5]).tolist() == [0x00020001, 0x00040003]  # copied: not aligned


def test_scratch_is_reused_and_grows():
    pool, cpu = Scratch(), torch.device("cpu")
    first = pool.take((4, 4), torch.float32, cpu)
    assert pool.take((2, 2), torch.float32, cpu).data_ptr() == first.data_ptr()
    assert pool.take((4, 4), torch.float16, cpu).data_ptr() != first.data_ptr()
    assert pool.take((8, 8), torch.float32, cpu).shape == (8, 8)
    pool.clear()
