"""Tables the 4-bit formats look numbers up in; made once a device and kept."""

import functools

import torch

from mdl.kernels.nf4.packed import code

STEPS = 65536
"""Equal steps of [-1, 1] in which bitsandbytes' CPU path finds an 8-bit code."""


@functools.cache
def pairs(quant_type: str, device: torch.device) -> torch.Tensor:
    """What each byte holds: two float32, the high nibble's first, as one int64; int64 [256].

    One gather of eight bytes is twice as quick as a gather of rows of two.
    """
    values, byte = code(quant_type, device), torch.arange(256, device=device)
    both = torch.stack([values[byte >> 4], values[byte & 15]], dim=1)
    return both.view(torch.int64).view(-1)


@functools.cache
def words(quant_type: str) -> torch.Tensor:
    """What two bytes hold, by the little-endian number they make: four float32 as one complex128.

    complex128 [65536], on the CPU: 1 MiB, and half the lookups of `pairs`. The type is only the
    widest that torch looks up; nothing is computed with it.
    """
    both, word = pairs(quant_type, torch.device("cpu")), torch.arange(1 << 16)
    four = torch.stack([both[word & 255], both[word >> 8]], dim=1)
    return four.view(torch.complex128).view(-1)


@functools.cache
def bounds(quant_type: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Midpoints of the sorted code (float32 [15]) and the nibble of each value (int32 [16]).

    argsort leaves equal values (FP4 has +0 and -0) in the order bitsandbytes gets on the CPU.
    """
    values = code(quant_type, torch.device("cpu"))
    order = torch.argsort(values)
    middle = (values[order[:-1]] + values[order[1:]]) / 2
    return middle.to(device), order.int().to(device)


@functools.cache
def cells(quant_type: str) -> tuple[torch.Tensor, torch.Tensor]:
    """For the upper 16 bits of a float32: the bounds below the cell, and the bound inside it.

    uint8 [65536] and float32 [65536] (infinity where no bound is inside), on the CPU. No cell
    holds two bounds, so `index = below[cell] + (value > inside[cell])` is the exact bucket; the
    cells of NaN give 15.
    """
    middle, _ = bounds(quant_type, torch.device("cpu"))
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    one = _float(upper)
    other = _float(upper | 0xFFFF)
    low, high = torch.minimum(one, other), torch.maximum(one, other)
    below = (middle[None, :] < low[:, None]).sum(1)
    within = (middle[None, :] >= low[:, None]) & (middle[None, :] <= high[:, None])
    position = within.int().argmax(1)
    inside = torch.where(within.any(1), middle[position], torch.inf)
    below[one.isnan() | other.isnan()] = 15
    return below.to(torch.uint8), inside


GRID = {"nf4": 16, "fp4": 512}
"""Cells of a unit length, fine enough that no cell holds two bounds."""


@functools.cache
def grid(quant_type: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """For each cell of an even grid on [-1, 1]: the bound inside it, and the nibbles beside it.

    float32 [4 * c] (infinity where no bound is inside) and int32 [4 * c], the nibble of a value up
    to the bound in the low four bits, of one above it in the next four; c is `GRID[quant_type]`.
    A value's cell is `round(value * c) + c`, computed as the kernel does. Above
    infinity there is only NaN, which gets the largest value.
    """
    count = GRID[quant_type]
    middle, order = bounds(quant_type, torch.device("cpu"))
    cell = (middle * count + (12582912.0 + count)).view(torch.int32) & (4 * count - 1)
    inside = torch.full((4 * count,), torch.inf)
    inside[cell.long()] = middle
    numbers = torch.arange(4 * count, dtype=torch.int32)
    below = torch.bucketize(numbers, cell, out_int32=True).clamp(max=15)
    above = torch.where(inside.isfinite(), below + 1, 15)
    nibbles = order[below.long()] | order[above.long()] << 4
    return inside.to(device), nibbles.int().to(device)


def _float(bits: torch.Tensor) -> torch.Tensor:
    signed = torch.where(bits >= 1 << 31, bits - (1 << 32), bits)
    return signed.to(torch.int32).view(torch.float32)


@functools.cache
def dynamic_code(device: torch.device) -> torch.Tensor:
    """The signed dynamic 8-bit code: float32 [256], ascending.

    Source: 8-bit Approximations for Parallelism in Deep Learning (arXiv:1511.04561), as
    bitsandbytes' `create_dynamic_map` has it: seven decades, each twice as fine as the one below.
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        means = (edges[:-1] + edges[1:]) / 2.0
        for sign in (1, -1):
            values += (sign * (10 ** (exponent - 6)) * means).tolist()
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


@functools.cache
def steps(device: torch.device) -> torch.Tensor:
    """The 8-bit code of every step of [-1, 1]: uint8 [65536].

    Coarser than the nearest value: a number close to a midpoint gets its neighbour's code. This is
    bitsandbytes' CPU path; its CUDA path searches exactly.
    """
    values = dynamic_code(torch.device("cpu"))
    middle = (values[:-1] + values[1:]) * 0.5
    grid = torch.arange(STEPS, dtype=torch.float32) * 2 / (STEPS - 1) - 1
    return torch.bucketize(grid, middle).to(torch.uint8).to(device)
