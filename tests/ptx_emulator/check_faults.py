"""The emulated GPU itself: that it notices what it is there to notice, in a kernel made wrong."""

import dataclasses

import pytest
import torch

import mdl.kernels as kernels
from mdl.kernels.nf4.kernels import dequantize_4bit_kernel
from ptx_emulator import Fault
from ptx_emulator.arithmetic import fma, from_bf16, to_bf16
from tests.kernels.weights import packed_weight, rows
from tests.ptx_emulator.plugin import DRIVER

WEIGHT = packed_weight(128, 512, torch.bfloat16)
X = rows(20, 512, torch.bfloat16)


def without(name, *words):
    """An edit that drops every instruction `name` with these words."""

    def edit(program):
        kept = [
            dataclasses.replace(one, words=("nop",), operands=())
            if one.name == name and set(words) <= set(one.words)
            else one
            for one in program.instructions
        ]
        assert kept != program.instructions
        return dataclasses.replace(program, instructions=kept)

    return edit


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (without("bar"), "without a barrier|still read"),
        (without("cp", "wait_group"), "before it is written"),
        (without("cp", "async", "shared"), "before it is written"),
    ],
)
def test_a_lost_instruction_is_noticed(edit, why):
    kernels.linear_4bit(X, WEIGHT)
    DRIVER.edit = edit
    try:
        with pytest.raises(Fault, match=why):
            kernels.linear_4bit(X, WEIGHT)
    finally:
        DRIVER.edit = None


@pytest.mark.parametrize("m", [4, 12, 20, 40])
def test_most_barriers_are_missed_when_they_are_taken_out(m):
    """Not all: some order what ordered itself, and the emulated threads walk in step."""
    met = []
    DRIVER.edit = lambda program: met.append(program) or program
    try:
        x = rows(m, 512, torch.bfloat16)
        right = kernels.linear_4bit(x, WEIGHT)
        (program,) = met
        barriers = [at for at, one in enumerate(program.instructions) if one.words[0] == "bar"]
        missed = 0
        for at in barriers:
            kept = list(program.instructions)
            kept[at] = dataclasses.replace(kept[at], words=("nop",), operands=())
            changed = dataclasses.replace(program, instructions=kept)
            DRIVER.edit = lambda _, changed=changed: changed
            try:
                assert torch.equal(kernels.linear_4bit(x, WEIGHT), right)
            except Fault:
                missed += 1
    finally:
        DRIVER.edit = None
    assert missed > 0.6 * len(barriers) > 2


def launch(packed, out, n):
    weight = dataclasses.replace(WEIGHT, packed=packed)
    grid = (-(-n // 4096),)
    dequantize_4bit_kernel[grid](
        *weight.kernel_pointers(),
        out,
        n,
        n // 2,
        HALF=32,
        NESTED=256,
        GROUPS=64,
        enable_fp_fusion=False,
    )


def test_an_access_outside_of_the_arguments_is_noticed():
    out = torch.empty(WEIGHT.numel)
    launch(WEIGHT.packed, out, WEIGHT.numel)
    assert torch.equal(out.view(128, 512), kernels.dequantize_4bit(WEIGHT, torch.float32))
    with pytest.raises(Fault, match="outside of every argument"):
        launch(WEIGHT.packed, out[:-64], WEIGHT.numel)
    with pytest.raises(Fault, match="outside of every argument"):
        launch(WEIGHT.packed[:-64], out, WEIGHT.numel)


def test_an_unknown_instruction_is_refused_by_name():
    try:
        DRIVER.edit = lambda program: dataclasses.replace(
            program,
            instructions=[
                dataclasses.replace(one, words=("vote", "sync")) if one.name == "shfl" else one
                for one in program.instructions
            ],
        )
        with pytest.raises(NotImplementedError, match="shfl"):
            kernels.linear_4bit(X[:1], WEIGHT)
    finally:
        DRIVER.edit = None


def test_rounding():
    """Against torch's bfloat16, and a product and sum that two roundings would get wrong."""
    values = torch.randn(4096) * torch.logspace(-30, 30, 4096)
    assert torch.equal(
        torch.from_numpy(from_bf16(to_bf16(values.numpy()))), values.bfloat16().float()
    )
    a, b, c = (torch.tensor(value).numpy() for value in (1 + 2**-12, 1 + 2**-12, 2**-60))
    exact = (1 + 2**-12) ** 2  # between two floats, which the tiny addend decides
    assert float(fma(a, b, c)) > exact > float(fma(a, b, -c))
