"""Instructions that a warp, or four warps, execute together.

Fragments follow "PTX ISA", the sections on mma.m16n8k16, ldmatrix, stmatrix, wgmma.mma_async and
the matrix descriptor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator.arithmetic import from_bf16
from ptx_emulator.memory import Fault
from ptx_emulator.parse import Address, Instruction

if TYPE_CHECKING:
    from ptx_emulator.machine import Machine

WARP = 32
_U4 = np.dtype("u4")
_ROW, _PAIR = np.arange(WARP) // 4, np.arange(WARP) % 4
"""Row and pair of columns of each lane in an 8 by 8 matrix."""


def shuffle(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    """`shfl.sync.idx` and `.bfly` over the whole warp."""
    target, source, lane, clamp, members = instruction.operands
    if clamp != 31 or members != -1:
        raise NotImplementedError(instruction.text)
    values = machine.read(source, _U4).reshape(-1, WARP)
    given = machine.read(lane, _U4).reshape(-1, WARP).astype(np.int64)
    mode = instruction.words[2]
    if mode not in ("idx", "bfly"):
        raise NotImplementedError(instruction.text)
    chosen = given & 31 if mode == "idx" else machine.lane.reshape(-1, WARP) ^ given
    machine.write(target, np.take_along_axis(values, chosen, axis=1).reshape(-1), mask)


def reduce(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    """`redux.sync.max`."""
    if "max" not in instruction.words:
        raise NotImplementedError(instruction.text)
    kind = np.dtype("f4" if instruction.type == "f32" else "i4")
    values = machine.read(instruction.operands[1], kind).reshape(-1, WARP)
    best = np.fmax.reduce(values, axis=1) if kind.kind == "f" else values.max(axis=1)
    machine.write(instruction.operands[0], np.repeat(best, WARP), mask)


def _rows(
    machine: Machine, operand: Address, count: int, warps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(program, shared address, warp) of each row of each matrix, [warps, matrices, 8].

    Lane 8 j + i holds the address of row i of matrix j.
    """
    address = machine.address(operand).astype(np.int64).reshape(-1, WARP)[warps]
    rows = address[:, : 8 * count].reshape(-1, count, 8)
    first = warps[:, None, None] * WARP
    block = np.broadcast_to(machine.block_of[first], rows.shape)
    return block, rows, np.broadcast_to(machine.warp_of[first], rows.shape)


def _active(mask: np.ndarray) -> np.ndarray:
    """Indices of the warps with an active lane."""
    return np.flatnonzero(mask.reshape(-1, WARP).any(axis=1))


def load_matrices(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    """`ldmatrix`: each lane gets two adjacent elements of each 8 by 8 matrix of 16-bit values."""
    targets, source = instruction.operands
    assert isinstance(targets, tuple) and isinstance(source, Address)
    warps = _active(mask)
    block, rows, warp = _rows(machine, source, len(targets), warps)
    machine.note_shared(instruction, rows.reshape(len(warps), -1), 16)
    data = machine.shared.load(block.ravel(), rows.ravel(), 16, warp.ravel())
    matrices = np.zeros((machine.total // WARP, len(targets), 8, 8), np.uint16)
    matrices[warps] = data.view(np.uint16).reshape(*rows.shape, 8)
    if "trans" in instruction.words:
        matrices = matrices.swapaxes(-1, -2)
    for index, register in enumerate(targets):
        low = matrices[:, index, _ROW, 2 * _PAIR].astype(np.uint32)
        high = matrices[:, index, _ROW, 2 * _PAIR + 1].astype(np.uint32)
        machine.write(register, (low | high << np.uint32(16)).reshape(-1), mask)


def store_matrices(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    """`stmatrix`, the inverse of `ldmatrix`."""
    target, sources = instruction.operands
    assert isinstance(sources, tuple) and isinstance(target, Address)
    matrices = np.zeros((machine.total // WARP, len(sources), 8, 8), np.uint16)
    for index, register in enumerate(sources):
        value = machine.read(register, _U4).reshape(-1, WARP)
        matrices[:, index, _ROW, 2 * _PAIR] = value.astype(np.uint16)
        matrices[:, index, _ROW, 2 * _PAIR + 1] = (value >> np.uint32(16)).astype(np.uint16)
    if "trans" in instruction.words:
        matrices = matrices.swapaxes(-1, -2)
    warps = _active(mask)
    block, rows, warp = _rows(machine, target, len(sources), warps)
    machine.note_shared(instruction, rows.reshape(len(warps), -1), 16)
    data = np.ascontiguousarray(matrices[warps]).view(np.uint8).reshape(-1, 16)
    machine.shared.store(block.ravel(), rows.ravel(), data, warp.ravel())


def _halves(machine: Machine, registers: tuple[str, ...], bf16: bool) -> np.ndarray:
    """[warps, lanes, registers, 2] float64."""
    bits = np.stack([machine.read(register, _U4) for register in registers], axis=1)
    pairs = np.ascontiguousarray(bits).view(np.uint16).reshape(-1, WARP, len(registers), 2)
    return widened(pairs, bf16)


def widened(bits: np.ndarray, bf16: bool) -> np.ndarray:
    """16-bit elements as float64."""
    return (from_bf16(bits) if bf16 else bits.view(np.float16)).astype(np.float64)


def _left(machine: Machine, registers: tuple[str, ...], bf16: bool) -> np.ndarray:
    """A from its fragments, [warps, 16, 16]."""
    parts = _halves(machine, registers, bf16)
    a = np.zeros((len(parts), 16, 16))
    for index in range(4):
        row, column = _ROW + 8 * (index % 2), 2 * _PAIR + 8 * (index // 2)
        a[:, row, column] = parts[:, :, index, 0]
        a[:, row, column + 1] = parts[:, :, index, 1]
    return a


def _place(index: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) in C or D of each lane's register `index`."""
    return _ROW + 8 * (index % 4 // 2), 2 * _PAIR + index % 2 + 8 * (index // 4)


def _sums(machine: Machine, registers: tuple[str, ...]) -> np.ndarray:
    """C from its fragments, [warps, 16, 8 n]: four registers for each 8 columns."""
    c = np.zeros((machine.total // WARP, 16, 2 * len(registers)))
    for index, register in enumerate(registers):
        row, column = _place(index)
        c[:, row, column] = machine.read(register, np.dtype("f4")).reshape(-1, WARP)
    return c


def _give(machine: Machine, registers: tuple[str, ...], d: np.ndarray, mask: np.ndarray) -> None:
    for index, register in enumerate(registers):
        row, column = _place(index)
        value = np.ascontiguousarray(d[:, row, column].reshape(-1)).astype(np.float32)
        machine.write(register, value, mask)


def multiply(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    """`mma.sync.m16n8k16` of bf16 or fp16, summed in float32."""
    if "m16n8k16" not in instruction.words or instruction.words[-4] != "f32":
        raise NotImplementedError(instruction.text)
    target, left, right, addend = instruction.operands
    assert isinstance(target, tuple) and isinstance(left, tuple)
    assert isinstance(right, tuple) and isinstance(addend, tuple)
    bf16 = instruction.words[-2] == "bf16"
    parts = _halves(machine, right, bf16)
    b = np.zeros((len(parts), 16, 8))
    for index in range(2):
        for half in range(2):
            b[:, 2 * _PAIR + half + 8 * index, _ROW] = parts[:, :, index, half]
    d = _left(machine, left, bf16) @ b + _sums(machine, addend)
    _give(machine, target, d, mask)


def group_multiply(machine: Machine, instruction: Instruction, mask: np.ndarray) -> None:
    """`wgmma.mma_async` with A in registers and B, transposed, in shared memory."""
    if "mma_async" not in instruction.words:
        return  # fences and waits: the product is complete at once here
    target, left, descriptor, scale = instruction.operands[:4]
    assert isinstance(target, tuple)
    if not isinstance(left, tuple) or instruction.operands[4:] != (1, 1, 0):
        raise NotImplementedError(instruction.text)
    if not mask.all():
        raise Fault("wgmma in only some of the programs")
    bf16 = instruction.words[-1] == "bf16"
    keep = machine.read(scale, np.dtype(bool)).reshape(-1, WARP)[:, :1, None]
    b = _described(machine, instruction, descriptor, 2 * len(target), bf16)
    d = _left(machine, left, bf16) @ np.repeat(b, 4, axis=0).swapaxes(1, 2)
    _give(machine, target, d + np.where(keep, _sums(machine, target), 0.0), mask)


def _described(
    machine: Machine, instruction: Instruction, descriptor: object, n: int, bf16: bool
) -> np.ndarray:
    """B of each group of four warps, [groups, n, 16], from its descriptor."""
    first = np.arange(0, machine.total, 4 * WARP)
    bits = machine.read(str(descriptor), np.dtype("u8"))[first]
    width = {1: 128, 2: 64, 3: 32}.get(int(bits[0]) >> 62)
    if width is None:
        raise NotImplementedError("a matrix descriptor without swizzle")
    rows = rows_in_shared(machine, instruction, first, bits.astype(np.int64), n, width)
    return widened(rows, bf16)


def rows_in_shared(
    machine: Machine,
    instruction: Instruction,
    threads: np.ndarray,
    bits: np.ndarray,
    n: int,
    width: int,
) -> np.ndarray:
    """The 16-bit elements that each descriptor points to, [descriptors, n, 16].

    K-major, in groups of eight rows of `width` (32, 64 or 128) bytes. The swizzle permutes the
    16-byte pieces of a row by its number: for 128 bytes, address bits 4-6 ^= bits 7-9.
    threads: the thread that passes each descriptor.
    """
    if (bits >> 49 & 7).any():
        raise NotImplementedError("a matrix descriptor with a base offset")
    start, stride = (bits & 0x3FFF) << 4, (bits >> 32 & 0x3FFF) << 4
    row = np.arange(n)[None, :, None]
    piece = np.arange(2)[None, None, :] * 16
    at = start[:, None, None] + row // 8 * stride[:, None, None] + row % 8 * width + piece
    at ^= (at >> 7 & (width // 16 - 1)) << 4
    machine.note_shared(instruction, at.swapaxes(1, 2).reshape(len(threads), -1), 16)
    block = np.broadcast_to(machine.block_of[threads][:, None, None], at.shape).reshape(-1)
    warp = np.broadcast_to(machine.warp_of[threads][:, None, None], at.shape).reshape(-1)
    data = machine.shared.load(block, at.reshape(-1), 16, warp)
    return data.view(np.uint16).reshape(len(threads), n, 16)


COLLECTIVE: dict[str, Callable[[Machine, Instruction, np.ndarray], None]] = {
    "shfl": shuffle,
    "redux": reduce,
    "ldmatrix": load_matrices,
    "stmatrix": store_matrices,
    "mma": multiply,
    "wgmma": group_multiply,
    "fence": lambda machine, instruction, mask: None,
}
