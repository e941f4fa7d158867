"""Global and shared memory of a running kernel, with a sanitizer's checks."""

import ctypes
from collections.abc import Sequence

import numpy as np

_LOW = 4096
_SPAN = 2**47 - 2 * _LOW
_NO_WARP, _MANY_WARPS = -1, -2


class Fault(AssertionError):
    """An access that a GPU refuses, or whose result depends on the order of warps."""


def _flat(width: int) -> np.ndarray:
    """This process's memory, from address 4096, as one array of unsigned integers."""
    kind = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}[width]
    return np.ctypeslib.as_array((kind * (_SPAN // width)).from_address(_LOW))


_PROCESS = {width: _flat(width) for width in (1, 2, 4, 8)}


class Global:
    """The memory of the arguments, at its real addresses.

    Args:
        spans: [first, one past the last) byte of each argument.
    """

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        merged: list[list[int]] = []
        for first, last in sorted(spans):
            if merged and first <= merged[-1][1]:
                merged[-1][1] = max(last, merged[-1][1])
            else:
                merged.append([first, last])
        self._first = np.array([first for first, _ in merged], np.uint64)
        self._last = np.array([last for _, last in merged], np.uint64)

    def check(self, address: np.ndarray, size: int, mask: np.ndarray) -> None:
        """Raise Fault where `size` bytes at `address` are misaligned or outside the arguments."""
        used = address[mask]
        if not used.size:
            return
        if (used % np.uint64(size)).any():
            raise Fault(f"{size} bytes at a misaligned address")
        at = np.searchsorted(self._first, used, side="right") - 1
        inside = (at >= 0) & (used + np.uint64(size) <= self._last[np.maximum(at, 0)])
        if not inside.all():
            raise Fault(f"{int((~inside).sum())} threads outside of every argument")

    def load(self, address: np.ndarray, width: int) -> np.ndarray:
        return _PROCESS[width][(address - np.uint64(_LOW)) // np.uint64(width)]

    def store(self, address: np.ndarray, values: np.ndarray) -> None:
        width = values.dtype.itemsize
        _PROCESS[width][(address - np.uint64(_LOW)) // np.uint64(width)] = values


class Shared:
    """Shared memory of all programs that run together, [programs, bytes].

    Each byte records which warp wrote and which read it since the last barrier.
    """

    def __init__(self, programs: int, size: int) -> None:
        self.size = -(-size // 16) * 16
        self._bytes = np.full(programs * self.size, 0xFF, np.uint8)
        self._filled = np.zeros(programs * self.size, bool)
        self._writer = np.full(programs * self.size, _NO_WARP, np.int32)
        self._reader = np.full(programs * self.size, _NO_WARP, np.int32)

    def barrier(self, programs: np.ndarray) -> None:
        """Order every earlier access of these programs before every later one."""
        for touched in (self._writer, self._reader):
            touched.reshape(len(programs), -1)[programs] = _NO_WARP

    def _places(self, program: np.ndarray, address: np.ndarray, size: int) -> np.ndarray:
        """Indices of each thread's bytes, [threads, size]."""
        if (address % size).any():
            raise Fault(f"{size} bytes at a misaligned shared address")
        if (address + size > self.size).any():
            raise Fault("an access past the end of shared memory")
        first = program * self.size + address.astype(np.int64)
        return first[:, None] + np.arange(size)

    def load(
        self, program: np.ndarray, address: np.ndarray, size: int, warp: np.ndarray
    ) -> np.ndarray:
        """`size` bytes for each thread, [threads, size]."""
        at = self._places(program, address, size)
        if not self._filled[at].all():
            raise Fault("shared memory is read before it is written")
        writer = self._writer[at]
        if ((writer != _NO_WARP) & (writer != warp[:, None])).any():
            raise Fault("a warp reads what another wrote, without a barrier between them")
        reader = self._reader[at]
        alone = (reader == _NO_WARP) | (reader == warp[:, None])
        self._reader[at] = np.where(alone, warp[:, None], _MANY_WARPS)
        return self._bytes[at]

    def store(
        self, program: np.ndarray, address: np.ndarray, values: np.ndarray, warp: np.ndarray
    ) -> None:
        """Write `values`, uint8 [threads, size]."""
        at = self._places(program, address, values.shape[1])
        writer, reader = self._writer[at], self._reader[at]
        foreign = (writer != _NO_WARP) & (writer != warp[:, None])
        foreign |= (reader != _NO_WARP) & (reader != warp[:, None])
        if (foreign & ~(self._filled[at] & (self._bytes[at] == values))).any():
            raise Fault("a warp writes what another touched, without a barrier between them")
        self._bytes[at] = values
        if (self._bytes[at] != values).any():
            raise Fault("two threads write different values to one place")
        self._filled[at] = True
        self._writer[at] = warp[:, None]

    def begin_copy(
        self, program: np.ndarray, address: np.ndarray, size: int, warp: np.ndarray
    ) -> None:
        """Begin an asynchronous write: these bytes may not be read before it was waited for."""
        at = self._places(program, address, size)
        reader = self._reader[at]
        if ((reader != _NO_WARP) & (reader != warp[:, None])).any():
            raise Fault("an asynchronous copy overwrites what another warp may still read")
        self._filled[at] = False


def bank_cycles(address: np.ndarray, size: int) -> tuple[int, int]:
    """(cycles, fewest possible) of shared memory for [warps, lanes] accesses of `size` bytes.

    32 banks of 4 bytes; lanes that touch the same word share it; 8 bytes go by half a warp and 16
    by a quarter.
    """
    words = max(1, size // 4)
    lanes = 32 // words
    total = 0
    for start in range(0, address.shape[1], lanes):
        first = address[:, start : start + lanes, None].astype(np.int64) // 4
        touched = np.sort((first + np.arange(words)).reshape(len(address), -1), axis=1)
        distinct = np.diff(touched, axis=1, prepend=-1) != 0
        bank = touched % 32 + 32 * np.arange(len(address))[:, None]
        used = np.bincount(bank[distinct], minlength=32 * len(address))
        total += int(used.reshape(-1, 32).max(axis=1).sum())
    return total, len(address) * -(-address.shape[1] // lanes)


def sectors_touched(address: np.ndarray, size: int) -> tuple[int, int]:
    """(32-byte sectors, fewest possible) of global memory for [warps, lanes] aligned accesses."""

    def distinct(values: np.ndarray) -> np.ndarray:
        ordered = np.sort(values, axis=1)
        return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)

    fewest = -(-distinct(address) * size // 32)
    return int(distinct(address // np.uint64(32)).sum()), int(fewest.sum())
