"""The 4-bit formats in plain torch: what is right, and what runs where there is no GPU.

Bit-equal to bitsandbytes' CPU path. Both directions work in chunks that stay in the processor's
cache and reuse their buffers, which is what makes them quick.
"""

import functools

import torch

from mdl.kernels.nf4_layout import Nested, Packed4bit, code

_CHUNK = 1 << 18
"""Weights worked on at a time: 1 MiB of float32."""


def scales(absmax: torch.Tensor, nested: Nested | None) -> torch.Tensor:
    """The float32 scale of every block.

    One product, then one sum, each rounded: a fused multiply-add would differ from bitsandbytes.
    """
    if nested is None:
        return absmax.float()
    second = nested.absmax.repeat_interleave(nested.blocksize)[: absmax.numel()]
    return nested.code[absmax.int()] * second + nested.offset


@functools.cache
def _pairs(quant_type: str, device: torch.device) -> torch.Tensor:
    """What each byte holds: float32 [256, 2], the high nibble's value first."""
    values, byte = code(quant_type, device), torch.arange(256, device=device)
    return torch.stack([values[byte >> 4], values[byte & 15]], dim=1)


def dequantize_4bit(weight: Packed4bit, out: torch.Tensor) -> torch.Tensor:
    """Write `code[nibble] * scale` into `out` (contiguous, any float dtype), rounding once."""
    n, size = weight.numel, weight.blocksize
    scale, flat = scales(weight.absmax, weight.nested), out.view(-1)
    pairs = _pairs(weight.quant_type, weight.packed.device)
    for start in range(0, n, _CHUNK):
        end = min(start + _CHUNK, n)
        byte = weight.packed[start // 2 : (end + 1) // 2]
        values = pairs.index_select(0, byte.int()).view(-1)[: end - start]
        whole = (end - start) // size * size
        first = start // size
        values[:whole].view(-1, size).mul_(scale[first : first + whole // size, None])
        if whole < end - start:
            values[whole:] *= scale[first + whole // size]
        flat[start:end] = values
    return out
