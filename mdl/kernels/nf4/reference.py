"""The 4-bit formats in plain torch: what is right, and what runs where there is no GPU.

Bit-equal to bitsandbytes' CPU path. Both directions work in chunks that stay in a core's cache and
reuse their buffers, which is what makes them quick.
"""

import torch

from mdl.kernels.nf4.packed import Packed4bit, blocks_of
from mdl.kernels.nf4.tables import STEPS, bounds, cells, pairs, steps, words
from mdl.kernels.runtime import in_threads

_CHUNKS = 16
"""Chunks a lookup, when decoding."""


def scales(weight: Packed4bit, start: int, stop: int) -> torch.Tensor:
    """The float32 scales of blocks start to stop.

    One product, then one sum, each rounded: a fused multiply-add would differ from bitsandbytes.
    """
    absmax, nested = weight.absmax[start:stop], weight.nested
    if nested is None:
        return absmax.float()
    outer = torch.arange(start, stop, device=absmax.device) // nested.blocksize
    first = nested.code.index_select(0, absmax.int())
    return first * nested.absmax.index_select(0, outer) + nested.offset


def reference_dequantize_4bit(weight: Packed4bit, out: torch.Tensor) -> torch.Tensor:
    """Write `code[nibble] * scale` into `out` (contiguous, any float dtype), rounding once."""
    flat, size = out.view(-1), weight.blocksize
    blocks = weight.numel // size
    whole = blocks * size
    if out.device.type == "cpu":
        _by_words(weight, flat[:whole].view(-1, size))
    else:
        values, each = _by_bytes(weight, 0, whole), scales(weight, 0, blocks)
        torch.mul(values.view(-1, size), each[:, None], out=flat[:whole].view(-1, size))
    if whole < weight.numel:
        flat[whole:] = _by_bytes(weight, whole, weight.numel) * scales(weight, blocks, blocks + 1)
    return out


def _by_bytes(weight: Packed4bit, start: int, stop: int) -> torch.Tensor:
    """The values of elements start (even) to stop, not scaled: float32 [stop - start]."""
    table = pairs(weight.quant_type, weight.packed.device)
    index = weight.packed[start // 2 : (stop + 1) // 2].int()
    return table.index_select(0, index).view(torch.float32)[: stop - start]


def _by_words(weight: Packed4bit, out: torch.Tensor) -> None:
    """Decode whole blocks on the CPU, four elements a lookup. out: [blocks, block size].

    A lookup takes many chunks, and the operations that torch would split among threads take them
    as a list. So our threads seldom come back to Python, where they wait for each other.
    """
    table, size = words(weight.quant_type), weight.blocksize
    packed = weight.packed[: out.numel() // 2]
    packed = packed if packed.storage_offset() % 2 == 0 else packed.clone()
    source = packed.view(torch.uint16)
    in_place = out.dtype == torch.float32 and out.storage_offset() % 4 == 0

    def share(start: int, stop: int, step: int) -> None:
        many = max(size, min(_CHUNKS * step, stop - start))
        index = torch.empty(many // 4, dtype=torch.int32)
        wide = torch.empty((0 if in_place else many // size, size))
        for first in range(start, stop, many):
            last = min(first + many, stop)
            word, blocks = slice(first // 4, last // 4), slice(first // size, last // size)
            here = index[: word.stop - word.start]
            torch._foreach_copy_(torch.split(here, step), torch.split(source[word], step))
            values = out[blocks] if in_place else wide[: blocks.stop - blocks.start]
            four = values.view(-1).view(torch.complex128)
            torch.index_select(table, 0, here, out=four)
            parts = torch.split(values, step // size)
            each = scales(weight, blocks.start, blocks.stop)[:, None]
            torch._foreach_mul_(parts, torch.split(each, step // size))
            if not in_place:
                torch._foreach_copy_(torch.split(out[blocks], step // size), parts)

    in_threads(out.numel(), out.device, share)


def reference_quantize_4bit(
    tensor: torch.Tensor, blocksize: int, quant_type: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pack a contiguous tensor: uint8 [ceil(n / 2)] and float32 [ceil(n / blocksize)].

    Byte-exact with bitsandbytes' CPU path, all-zero blocks (0x77), NaN and infinity included. A
    whole block is multiplied by its scale's reciprocal, a short last block divided by its scale.
    """
    flat, n = tensor.detach().reshape(-1), tensor.numel()
    packed = torch.empty((n + 1) // 2, dtype=torch.uint8, device=tensor.device)
    absmax = torch.empty(blocks_of(n, blocksize), dtype=torch.float32, device=tensor.device)
    whole = n // blocksize * blocksize

    def share(start: int, stop: int, step: int) -> None:
        size = min(step, stop - start)
        wide, positive = torch.empty((2, size), dtype=torch.float32, device=tensor.device)
        for first in range(start, stop, step):
            end = min(first + step, stop)
            value = wide[: end - first]
            value.copy_(flat[first:end])
            blocks = value.view(-1, blocksize)
            scale = absmax[first // blocksize : end // blocksize]
            magnitude = torch.abs(value, out=positive[: end - first])
            torch.amax(magnitude.view(-1, blocksize), dim=1, out=scale)
            blocks.mul_((1.0 / scale.clamp(min=1e-38))[:, None])
            _pack(value, quant_type, packed[first // 2 : end // 2])

    in_threads(whole, tensor.device, share)
    if whole < n:
        quantize_rest(flat[whole:], quant_type, packed[whole // 2 :], absmax[-1:])
    return packed, absmax


def quantize_rest(
    rest: torch.Tensor, quant_type: str, packed: torch.Tensor, absmax: torch.Tensor
) -> None:
    """Pack a block shorter than the others into `packed` (uint8) and `absmax` (float32 [1])."""
    value = rest.float()
    scale = value.abs().max().clamp(min=1e-38)
    absmax.copy_(scale)
    value = torch.nn.functional.pad(value / scale, (0, value.numel() % 2))
    _pack(value, quant_type, packed)


def _pack(value: torch.Tensor, quant_type: str, out: torch.Tensor) -> None:
    """Nibbles of scaled values (float32, an even count), two a byte, into `out`."""
    if value.device.type == "cpu":
        below, inside = cells(quant_type)
        cell = (value.view(torch.int32) >> 16) & 0xFFFF
        index = below.index_select(0, cell)
        index += (value > inside.index_select(0, cell)).view(torch.uint8)
    else:
        index = torch.bucketize(value, bounds(quant_type, value.device)[0]).to(torch.uint8)
    if quant_type != "nf4":
        order = bounds(quant_type, value.device)[1]
        index = order.to(torch.uint8).index_select(0, index.int())
    torch.bitwise_or(index[::2] << 4, index[1::2], out=out)


def reference_quantize_8bit(
    values: torch.Tensor, blocksize: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize float32 scales to the dynamic 8-bit code: uint8 [n], float32 [blocks].

    Byte-exact with bitsandbytes' CPU path. NaN counts for nothing in a block's largest value and
    gets code 0, as does an all-zero block.
    """
    n, blocks = values.numel(), blocks_of(values.numel(), blocksize)
    padded = torch.nn.functional.pad(values.reshape(-1), (0, blocks * blocksize - n))
    rows = padded.view(blocks, blocksize)
    absmax = rows.abs().nan_to_num(nan=0.0, posinf=torch.inf).amax(dim=1)
    value = (rows * (1.0 / absmax)[:, None]).clamp(-1, 1)
    # One rounding to float32, as a fused multiply-add does it; float64 holds the product exactly.
    step = (((value + 1.0) * 0.5).double() * (STEPS - 1) + 0.5).float()
    step = torch.where(value.isnan(), 0.0, step).int()
    index = steps(values.device).index_select(0, step.view(-1)).view_as(rows)
    index = torch.where((absmax > 0)[:, None], index, 0)
    return index.view(-1)[:n].to(torch.uint8), absmax
