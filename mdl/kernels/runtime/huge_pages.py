"""Large results on the CPU, in memory that is quick to touch for the first time."""

import mmap
from collections.abc import Sequence
from math import prod

import torch

_WORTH_IT = 1 << 22
"""Bytes: two huge pages."""


def fresh(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An uninitialised contiguous tensor, as `torch.empty` makes it.

    A large one on the CPU asks Linux for huge pages: writing it first costs a fault every 2 MiB
    instead of every 4 KiB, which takes longer than decoding a weight into it.
    """
    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < _WORTH_IT or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(list(shape), dtype=dtype, device=device)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel built without them; the memory is as good as any other
        pass
    return torch.frombuffer(memory, dtype=dtype).view(*shape)
