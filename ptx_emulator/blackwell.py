"""Blackwell's tensor cores: `tcgen05`, tensor memory and mbarriers.

Copies and products complete at once here; a wait that nothing would end is a Fault.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator.memory import Fault
from ptx_emulator.parse import Address, Instruction
from ptx_emulator.warps import rows_in_shared, widened

if TYPE_CHECKING:
    from ptx_emulator.machine import Machine

_LANES, _COLUMNS = 128, 512
_SWIZZLES = {2: 128, 4: 64, 6: 32}
_U4 = np.dtype("u4")


class TensorMemory:
    """Tensor memory of all programs, and the phase of each mbarrier by (program, address)."""

    def __init__(self, programs: int) -> None:
        self._programs = programs
        self.phases: dict[tuple[int, int], int] = {}

    @functools.cached_property
    def cells(self) -> np.ndarray:
        """uint32 [programs, 128 lanes, 512 columns], made on first use."""
        return np.full((self._programs, _LANES, _COLUMNS), 0x7FBADBAD, np.uint32)


def _half(
    machine: Machine, operand: Address, apart: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(program, lane, first column) of each thread, in the shape 16x32bx2.

    A warp accesses the first 16 of its own 32 lanes: the first half of its threads at the address,
    the second half `apart` columns further on.
    """
    address = machine.address(operand, "u4").astype(np.int64)
    second = machine.lane >= 16
    lane = (address >> 16) + machine.lane % 16
    if (lane // 32 != machine.warp_of % 4).any():
        raise Fault("a warp accesses another warp's tensor memory")
    first = (address & 0xFFFF) + np.where(second, apart, 0)
    if (first + count > _COLUMNS).any():
        raise Fault("an access past the last column of tensor memory")
    return machine.block_of, lane, first


def _store(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    target, apart, sources = instruction.operands
    assert isinstance(target, Address) and isinstance(apart, int) and isinstance(sources, tuple)
    program, lane, first = _half(machine, target, apart, len(sources))
    for index, register in enumerate(sources):
        value = machine.read(register, _U4)
        machine.tensor.cells[program[mask], lane[mask], (first + index)[mask]] = value[mask]


def _load(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    targets, source, apart = instruction.operands
    assert isinstance(source, Address) and isinstance(apart, int) and isinstance(targets, tuple)
    program, lane, first = _half(machine, source, apart, len(targets))
    for index, register in enumerate(targets):
        machine.write(register, machine.tensor.cells[program, lane, first + index], mask)


def _multiply(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    """D += A B.T over 16 of k, issued by one thread per program; D and A are in tensor memory."""
    target, left, descriptor, form, keep = instruction.operands
    assert isinstance(target, Address) and isinstance(left, Address)
    for thread in np.flatnonzero(mask):
        bits = int(machine.read(form, _U4)[thread])
        m, n, kind = (bits >> 24 & 31) << 4, (bits >> 17 & 63) << 3, bits >> 7 & 7
        if m != 64 or bits & 0x1E07C != 0x10 or kind > 1 or kind != bits >> 10 & 7:
            raise NotImplementedError(f"{instruction.text} with the form {bits:#x}")
        cells = machine.tensor.cells[machine.block_of[thread]]
        lanes = (np.arange(4)[:, None] * 32 + np.arange(16)).reshape(-1)  # 16 rows a quarter
        at = [int(machine.address(one, "u4")[thread]) for one in (target, left)]
        a = np.ascontiguousarray(cells[lanes, at[1] : at[1] + 8]).view(np.uint16)
        where = int(machine.read(descriptor, np.dtype("u8"))[thread])
        if where >> 61 not in _SWIZZLES:
            raise NotImplementedError(f"a matrix descriptor {where:#x}")
        b = rows_in_shared(
            machine,
            instruction,
            np.array([thread]),
            np.array([where], np.uint64).view(np.int64),
            n,
            _SWIZZLES[where >> 61],
        )[0]
        product = widened(a, kind == 1) @ widened(b, kind == 1).T
        old = np.ascontiguousarray(cells[lanes, at[0] : at[0] + n]).view(np.float32)
        if machine.read(keep, np.dtype(bool))[thread]:
            product = product + old
        cells[lanes, at[0] : at[0] + n] = product.astype(np.float32).view(np.uint32)


def tensor_cores(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    """`tcgen05.*`: memory is allocated from column 0 and never freed."""
    kind = instruction.words[1]
    if kind == "alloc":
        target = instruction.operands[0]
        assert isinstance(target, Address)
        address = machine.address(target).view(np.int64)
        first = mask & (machine.lane == 0)
        zero = np.zeros((int(first.sum()), 4), np.uint8)
        machine.shared.store(machine.block_of[first], address[first], zero, machine.warp_of[first])
    elif kind == "commit":
        for key in _barriers(machine, instruction, mask):
            machine.tensor.phases[key] ^= 1
    elif kind == "mma":
        _multiply(machine, instruction, mask)
    elif kind in ("st", "ld"):
        if "16x32bx2" not in instruction.words:
            raise NotImplementedError(instruction.text)
        (_store if kind == "st" else _load)(machine, instruction, mask)


def _barriers(
    machine: Machine, instruction: Instruction, mask: np.ndarray, at: int = 0
) -> list[tuple[int, int]]:
    place = instruction.operands[at]
    assert isinstance(place, Address)
    address = machine.address(place).astype(np.int64)
    pairs = zip(machine.block_of[mask].tolist(), address[mask].tolist(), strict=True)
    return list(pairs)


def barriers(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    """`mbarrier.init`, `.inval`, and `.try_wait.parity`, which always succeeds."""
    if "init" in instruction.words[1]:
        machine.tensor.phases.update(dict.fromkeys(_barriers(machine, instruction, mask), 0))
    elif instruction.words[1] == "try_wait":
        parity = machine.read(instruction.operands[2], _U4)[mask]
        keys = _barriers(machine, instruction, mask, at=1)
        if any(machine.tensor.phases[key] == one for key, one in zip(keys, parity, strict=True)):
            raise Fault("a wait for a phase that nothing has ended")


def elect(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    """`elect.sync`: the first thread of each warp."""
    machine.write(instruction.operands[1], machine.lane == 0, mask)


BLACKWELL: dict[str, Callable[[Machine, Instruction, np.ndarray], None]] = {
    "tcgen05": tensor_cores,
    "mbarrier": barriers,
    "elect": elect,
}
