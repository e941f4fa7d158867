"""Run programs (thread blocks) of one kernel, all threads in step, one instruction at a time.

The threads at the lowest instruction go first, so threads that diverge at a branch meet again
after it.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ptx_emulator.arithmetic import KINDS, compute_of
from ptx_emulator.blackwell import BLACKWELL, TensorMemory
from ptx_emulator.memory import Fault, Global, Shared, bank_cycles, sectors_touched
from ptx_emulator.parse import Address, Instruction, Operand, Program
from ptx_emulator.warps import COLLECTIVE

Mask = np.ndarray
WARP = 32


@dataclass
class Counts:
    """Memory traffic of a launch, by instruction and line of source.

    sectors: 32-byte sectors of global memory, [touched, fewest possible].
    wavefronts: cycles of shared memory, likewise.
    """

    sectors: dict[str, np.ndarray] = field(default_factory=dict)
    wavefronts: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, table: dict[str, np.ndarray], place: str, moved: int, fewest: int) -> None:
        table[place] = table.get(place, np.zeros(2, np.int64)) + np.array((moved, fewest))


class Machine:
    """Some programs of a launch.

    Args:
        blocks: position of each program in the grid, [programs, 3].
        grid: size of the grid.
        arguments: value of each parameter, by name.
        memory: the memory that the kernel may access.
        shared: bytes of shared memory per program.
        counts: filled in if given, which takes time.
    """

    def __init__(
        self,
        program: Program,
        blocks: np.ndarray,
        grid: tuple[int, int, int],
        arguments: dict[str, int],
        memory: Global,
        shared: int,
        counts: Counts | None = None,
    ) -> None:
        self.program, self.arguments, self.memory, self.counts = program, arguments, memory, counts
        self.total = len(blocks) * program.threads
        thread = np.arange(self.total)
        self.block_of = thread // program.threads
        self.warp_of = (thread % program.threads // WARP).astype(np.int32)
        self.lane = thread % WARP
        self.shared = Shared(len(blocks), shared)
        self.tensor = TensorMemory(len(blocks))
        self.special = {"%tid.x": thread % program.threads, "global_smem": 0 * thread}
        for axis, letter in enumerate("xyz"):
            self.special[f"%ctaid.{letter}"] = blocks[self.block_of, axis]
            self.special[f"%nctaid.{letter}"] = 0 * thread + grid[axis]
        self.registers: dict[str, np.ndarray] = {}
        self._constants: dict[tuple[int, str], np.ndarray] = {}
        self._copies: list[list[Callable[[], None]]] = [[]]
        self._undefined = np.full(self.total, 0x7FBADBAD7FBADBAD, np.uint64)
        self._everyone = np.ones(self.total, bool)
        self._at = np.zeros(self.total, np.int64)
        self._waits = np.zeros(self.total, bool)

    def run(self) -> None:
        """Run every thread to its end.

        Raises:
            Fault: what a sanitizer would report.
            NotImplementedError: an unknown instruction.
        """
        with np.errstate(all="ignore"):
            self._run()

    def _run(self) -> None:
        here, mask = 0, self._everyone
        while here < len(self.program.instructions):
            instruction = self.program.instructions[here]
            active = mask
            if instruction.guard:
                active = mask & (self.registers[instruction.guard] != instruction.negated)
            try:
                if instruction.name in ("bra", "ret"):
                    self._at[mask] = here + 1
                    self._at[active] = self._target(instruction)
                elif instruction.name in ("bar", "barrier") and "warp" not in instruction.words:
                    self._meet(here, mask)
                else:
                    self._execute(instruction, active)
                    if mask is self._everyone:
                        here += 1
                        continue
                    self._at[mask] = here + 1
                here, mask = self._lowest()
            except (Fault, NotImplementedError, KeyError) as error:
                what = f"{instruction.place}: {instruction.text}"
                raise type(error)(f"{error} in {what}") from error

    def _target(self, instruction: Instruction) -> int:
        if instruction.name == "ret":
            return len(self.program.instructions)
        return self.program.labels[str(instruction.operands[0])]

    def _lowest(self) -> tuple[int, Mask]:
        """The lowest instruction of a thread that is not waiting, and the threads there."""
        waiting = self._waits.any()
        places = self._at[~self._waits] if waiting else self._at
        here = int(places.min()) if places.size else len(self.program.instructions)
        if waiting and here == len(self.program.instructions):
            raise Fault("a barrier that not all threads of a program reach")
        mask = (self._at == here) & ~self._waits
        return here, self._everyone if mask.all() else mask

    def _meet(self, here: int, mask: Mask) -> None:
        """`bar.sync`: wait here for all threads of the program."""
        arrived = mask | (self._waits & (self._at == here))
        complete = arrived.reshape(-1, self.program.threads).all(axis=1)
        self.shared.barrier(complete)
        whole = np.repeat(complete, self.program.threads)
        self._at[mask] = here
        self._waits |= mask
        self._at[whole] = here + 1
        self._waits[whole] = False

    def _execute(self, instruction: Instruction, mask: Mask) -> None:
        if instruction.name in ("nop", "bar"):  # bar.warp.sync orders nothing further here
            return
        handler = _MEMORY.get(instruction.name)
        if handler is not None:
            handler(self, instruction, mask)
        elif instruction.name in BLACKWELL:
            BLACKWELL[instruction.name](self, instruction, mask)
        elif instruction.name in COLLECTIVE:
            if (mask != mask.reshape(-1, WARP).any(axis=1).repeat(WARP)).any():
                raise Fault("not all threads of a warp take part")
            COLLECTIVE[instruction.name](self, instruction, mask)
        elif instruction.name == "mov" and any(isinstance(o, tuple) for o in instruction.operands):
            self._repack(instruction, mask)
        else:
            function, sources, dtype = compute_of(instruction)
            values = [
                self.read(operand, kind)
                for operand, kind in zip(instruction.operands[1:], sources, strict=True)
            ]
            result = np.asarray(function(*values))
            self.write(instruction.operands[0], result.astype(dtype, copy=False), mask)

    def read(self, operand: Operand, dtype: np.dtype) -> np.ndarray:
        """An operand's value in each thread. A register that was never written holds a NaN.

        LLVM leaves the half of a pair undefined that nothing reads.
        """
        if isinstance(operand, int):
            key = (operand, dtype.str)
            if key not in self._constants:
                bits = operand % (1 << (8 * dtype.itemsize))
                number = np.array(bits, f"u{dtype.itemsize}").view(dtype)
                if dtype.kind == "b":
                    number = np.array(operand != 0)
                self._constants[key] = np.full(self.total, number)
            return self._constants[key]
        if operand in self.special:
            return self.special[str(operand)].astype(dtype)
        value = self.registers.get(str(operand), self._undefined)
        if value.dtype.itemsize > dtype.itemsize:  # the low part, as in `cvt.u16.u32` of an `%rd`
            return value.astype(f"u{dtype.itemsize}").view(dtype)
        return value.view(dtype) if value.dtype.itemsize == dtype.itemsize else value.astype(dtype)

    def write(self, register: Operand, value: np.ndarray, mask: Mask) -> None:
        """Set a register in the threads of `mask`."""
        name = str(register)
        if name == "_":
            return
        wide = _register_dtype(name)
        if value.dtype.kind == "f":
            value = value.view(f"u{value.dtype.itemsize}")
        if value.dtype != wide:
            value = value.astype(wide)
        if mask is not self._everyone:
            value = np.where(mask, value, self.registers.get(name, np.zeros(1, wide)))
        self.registers[name] = value

    def _repack(self, instruction: Instruction, mask: Mask) -> None:
        """`mov` between one register and the parts of a vector."""
        target, source = instruction.operands
        whole = KINDS[instruction.type]
        if isinstance(target, tuple):
            part = np.dtype(f"u{whole.itemsize // len(target)}")
            values = np.ascontiguousarray(self.read(source, whole)).view(part)
            for index, register in enumerate(target):
                self.write(register, values[index :: len(target)].copy(), mask)
        else:
            assert isinstance(source, tuple)
            part = np.dtype(f"u{whole.itemsize // len(source)}")
            parts = [self.read(register, part) for register in source]
            self.write(target, np.stack(parts, axis=1).reshape(-1).view(whole), mask)

    def address(self, operand: Operand, dtype: str = "u8") -> np.ndarray:
        """The address in each thread."""
        assert isinstance(operand, Address)
        base = self.read(operand.base, np.dtype(dtype))
        return base + np.array(operand.offset, np.int64).astype(dtype)

    def _load_parameter(self, instruction: Instruction, mask: Mask) -> None:
        source = instruction.operands[1]
        assert isinstance(source, Address)
        kind = KINDS[instruction.type]
        bits = np.array(self.arguments[source.base] % (1 << (8 * kind.itemsize)), np.uint64)
        value = bits.astype(f"u{kind.itemsize}").view(kind)  # a signed one extends its sign
        self.write(instruction.operands[0], np.full(self.total, value), mask)

    def load(self, instruction: Instruction, mask: Mask) -> None:
        """`ld` of a parameter, or of global or shared memory."""
        space = next(w for w in instruction.words if w in ("param", "global", "shared"))
        if space == "param":
            return self._load_parameter(instruction, mask)
        target, source = instruction.operands
        targets = target if isinstance(target, tuple) else (target,)
        kind = KINDS[instruction.type]
        unit = kind.itemsize
        address = self.address(source)
        size = unit * len(targets)
        self._note(space, instruction, address, size, mask)
        if space == "global":
            self.memory.check(address, size, mask)
            for index, register in enumerate(targets):
                value = np.zeros(self.total, f"u{unit}")
                value[mask] = self.memory.load(address[mask] + np.uint64(index * unit), unit)
                self.write(register, value.view(kind), mask)
            return None
        values = np.zeros((self.total, size), np.uint8)
        values[mask] = self.shared.load(
            self.block_of[mask], address[mask].view(np.int64), size, self.warp_of[mask]
        )
        for register, value in zip(targets, values.view(f"u{unit}").T, strict=True):
            self.write(register, value.copy().view(kind), mask)
        return None

    def store(self, instruction: Instruction, mask: Mask) -> None:
        """`st`, to global or shared memory."""
        target, source = instruction.operands
        kind = np.dtype(f"u{KINDS[instruction.type].itemsize}")
        sources = source if isinstance(source, tuple) else (source,)
        values = np.stack([self.read(part, kind) for part in sources], axis=1)[mask]
        address = self.address(target)
        space = "global" if "global" in instruction.words else "shared"
        self._note(space, instruction, address, values.shape[1] * kind.itemsize, mask)
        if space == "global":
            self.memory.check(address, values.shape[1] * kind.itemsize, mask)
            for index in range(values.shape[1]):
                place = address[mask] + np.uint64(index * kind.itemsize)
                self.memory.store(place, values[:, index])
        else:
            self.shared.store(
                self.block_of[mask],
                address[mask].view(np.int64),
                np.ascontiguousarray(values).view(np.uint8),
                self.warp_of[mask],
            )

    def copy(self, instruction: Instruction, mask: Mask) -> None:
        """`cp.async`: the bytes arrive when their group is waited for, no earlier."""
        if "commit_group" in instruction.words:
            self._copies.append([])
        elif "wait_group" in instruction.words:
            keep = int(self.read(instruction.operands[0], np.dtype("i4"))[0])
            waiting = self._copies[:-1]
            for group in waiting[: len(waiting) - keep]:
                for arrive in group:
                    arrive()
            self._copies = [*waiting[len(waiting) - keep :], self._copies[-1]]
        else:
            self._begin_copy(instruction, mask)

    def _begin_copy(self, instruction: Instruction, mask: Mask) -> None:
        target, source, size = instruction.operands[:3]
        assert isinstance(size, int)
        to, origin = self.address(target).view(np.int64)[mask], self.address(source)
        real = np.full(self.total, size)
        if len(instruction.operands) > 3:
            real = self.read(instruction.operands[3], np.dtype("u4"))
        reading = mask & (real > 0)
        self.memory.check(origin, size, reading)
        self._note("global", instruction, origin, size, reading)
        self._note("shared", instruction, self.address(target), size, mask)
        values = np.zeros((self.total, size), np.uint8)
        for index in range(size):
            at = reading & (index < real)
            values[at, index] = self.memory.load(origin[at] + np.uint64(index), 1)
        block, warp = self.block_of[mask], self.warp_of[mask]
        self.shared.begin_copy(block, to, size, warp)
        self._copies[-1].append(lambda: self.shared.store(block, to, values[mask], warp))

    def _note(
        self, space: str, instruction: Instruction, address: np.ndarray, size: int, mask: Mask
    ) -> None:
        if self.counts is None:
            return
        where = f"{instruction.place} {instruction.name}"
        for own in _by_active_lanes(address, mask):
            if space == "shared":
                self.note_shared(instruction, own, size)
            else:
                self.counts.add(self.counts.sectors, where, *sectors_touched(own, size))

    def note_shared(self, instruction: Instruction, address: np.ndarray, size: int) -> None:
        """Count accesses of `size` bytes to shared memory, at [warps, lanes] addresses."""
        if self.counts is not None:
            where = f"{instruction.place} {instruction.name}"
            self.counts.add(self.counts.wavefronts, where, *bank_cycles(address, size))


def _by_active_lanes(address: np.ndarray, mask: Mask) -> Iterator[np.ndarray]:
    """The active lanes' addresses, [warps, lanes], of all warps with as many active lanes."""
    address, mask = address.reshape(-1, WARP), mask.reshape(-1, WARP)
    active = mask.sum(axis=1)
    for count in sorted(set(active.tolist()) - {0}):
        chosen = active == count
        yield address[chosen][mask[chosen]].reshape(-1, count)


@functools.cache
def _register_dtype(name: str) -> np.dtype:
    kinds = {"%p": "?", "%rs": "u2", "%rd": "u8"}
    return np.dtype(kinds.get(name.rstrip("0123456789"), "u4"))


_MEMORY: dict[str, Callable[[Machine, Instruction, Mask], None]] = {
    "ld": Machine.load,
    "st": Machine.store,
    "cp": Machine.copy,
}
