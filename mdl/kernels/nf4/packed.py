"""The 4-bit formats: their sixteen values, their block sizes, and one packed weight as a value."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from mdl.errors import UsageError

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# NF4: quantiles of a standard normal, QLoRA (arXiv:2305.14314), appendix E.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
# FP4 as bitsandbytes defines it: sign, two exponent bits, one mantissa bit, divided by 12.
FP4 = (
    0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0,
    -0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0,
)  # fmt: skip


@functools.cache
def code(quant_type: str, device: torch.device) -> torch.Tensor:
    """The sixteen values of `nf4` or `fp4`: float32 [16], indexed by the nibble."""
    if quant_type == "nf4":
        return torch.tensor(NF4, dtype=torch.float32, device=device)
    return torch.tensor(FP4, dtype=torch.float32, device=device) / 12.0


@dataclass(frozen=True, eq=False)
class Nested:
    """Double quantization: `scale[i] = code[absmax8[i]] * absmax[i // blocksize] + offset`.

    absmax: float32 [ceil(blocks / blocksize)]. code: float32 [256]. offset: float32 scalar.
    """

    absmax: torch.Tensor
    code: torch.Tensor
    offset: torch.Tensor
    blocksize: int = 256


@dataclass(frozen=True, eq=False)
class Packed4bit:
    """One 4-bit weight of `shape`, row-major.

    packed: uint8 [ceil(n / 2)], contiguous; the even element is the high nibble.
    absmax: float32 [ceil(n / blocksize)]; uint8 of that shape when `nested` is there.
    dtype: the dtype the weight had, and dequantizes to by default.
    """

    packed: torch.Tensor
    absmax: torch.Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    blocksize: int = 64
    quant_type: str = "nf4"
    nested: Nested | None = None

    @property
    def numel(self) -> int:
        return prod(self.shape)

    def flat(self) -> "Flat":
        """The parts as a custom operator can take them."""
        nested = self.nested
        return (
            self.packed,
            self.absmax,
            nested.code if nested else None,
            nested.absmax if nested else None,
            nested.offset if nested else None,
            list(self.shape),
            self.blocksize,
            nested.blocksize if nested else 0,
            self.quant_type,
        )

    @classmethod
    def from_flat(cls, flat: "Flat", dtype: torch.dtype) -> "Packed4bit":
        """The inverse of `flat`."""
        packed, absmax, nested_code, nested_absmax, offset, shape, blocksize, size, kind = flat
        nested = None
        if nested_code is not None and nested_absmax is not None and offset is not None:
            nested = Nested(nested_absmax, nested_code, offset, size)
        return cls(packed, absmax, tuple(shape), dtype, blocksize, kind, nested)

    def kernel_pointers(self) -> tuple[torch.Tensor, ...]:
        """packed, absmax, nested code, nested absmax, offset, code: what every kernel reads.

        Without double quantization the three in the middle are placeholders nobody reads.
        """
        nested = self.nested
        return (
            self.packed,
            self.absmax,
            nested.code if nested else self.absmax,
            nested.absmax if nested else self.absmax,
            nested.offset if nested else self.absmax,
            code(self.quant_type, self.packed.device),
        )

    @classmethod
    def from_bitsandbytes(cls, weight: torch.Tensor, state: Any) -> "Packed4bit":
        """A view of a bitsandbytes weight and its `QuantState`; nothing is copied.

        Any `quant_storage` dtype is read as bytes; `shape` is the state's.
        """
        nested = None
        if state.nested:
            second = state.state2
            nested = Nested(second.absmax, second.code, state.offset, second.blocksize)
        return cls(
            packed=as_bytes(weight),
            absmax=state.absmax,
            shape=tuple(state.shape),
            dtype=state.dtype,
            blocksize=state.blocksize,
            quant_type=state.quant_type,
            nested=nested,
        )

    def to_bitsandbytes(self) -> tuple[torch.Tensor, Any]:
        """The weight as bitsandbytes keeps it: uint8 [bytes, 1] and a `QuantState`."""
        from bitsandbytes.functional import QuantState

        second = None
        if self.nested is not None:
            second = QuantState(
                absmax=self.nested.absmax,
                code=self.nested.code,
                blocksize=self.nested.blocksize,
                dtype=torch.float32,
            )
        state = QuantState(
            absmax=self.absmax,
            shape=torch.Size(self.shape),
            code=code(self.quant_type, self.packed.device).clone(),
            blocksize=self.blocksize,
            quant_type=self.quant_type,
            dtype=self.dtype,
            offset=self.nested.offset if self.nested else None,
            state2=second,
        )
        return self.packed.view(-1, 1), state


Flat = tuple[
    torch.Tensor,
    torch.Tensor,
    torch.Tensor | None,
    torch.Tensor | None,
    torch.Tensor | None,
    Sequence[int],
    int,
    int,
    str,
]
"""packed, absmax, nested code, nested absmax, offset, shape, block size, nested size, type."""

FLAT_SCHEMA = (
    "Tensor packed, Tensor absmax, Tensor? nested_code, Tensor? nested_absmax, Tensor? offset,"
    " SymInt[] shape, SymInt blocksize, SymInt nested_blocksize, str quant_type"
)
"""`Flat` in the schema of a custom operator, which knows only tensors and scalars."""


def as_bytes(weight: torch.Tensor) -> torch.Tensor:
    """A packed weight of any storage dtype as flat uint8, without a copy when contiguous."""
    flat = weight.detach().reshape(-1)
    return flat if flat.dtype == torch.uint8 else flat.contiguous().view(torch.uint8)


def check_format(blocksize: int, quant_type: str, dtype: torch.dtype) -> None:
    """Refuse what the 4-bit formats do not have.

    Raises:
        UsageError: an unknown quantization type, block size or dtype.
    """
    if quant_type not in ("nf4", "fp4"):
        raise UsageError(f"No 4-bit format is called {quant_type!r}.", next="Use 'nf4' or 'fp4'.")
    if blocksize not in BLOCK_SIZES:
        raise UsageError(
            f"A 4-bit block cannot have {blocksize} elements.",
            next=f"Use one of {', '.join(map(str, BLOCK_SIZES))}.",
        )
    if dtype not in DTYPES:
        raise UsageError(
            f"4-bit weights and {dtype} do not go together.",
            next="Use float32, float16 or bfloat16.",
        )


def check_packed(weight: Packed4bit) -> None:
    """Refuse a packed weight whose parts do not fit each other.

    Raises:
        UsageError: too few bytes or scales for the shape.
    """
    check_format(weight.blocksize, weight.quant_type, weight.dtype)
    bytes_needed, blocks = (weight.numel + 1) // 2, -(-weight.numel // weight.blocksize)
    if weight.packed.numel() < bytes_needed or weight.absmax.numel() < blocks:
        raise UsageError(
            f"A 4-bit weight of shape {list(weight.shape)} is incomplete.",
            why=f"It needs {bytes_needed} bytes and {blocks} scales; there are "
            f"{weight.packed.numel()} and {weight.absmax.numel()}.",
            next="Load the weight and its quantization state from the same checkpoint.",
        )


def blocks_of(n: int, blocksize: int) -> int:
    """How many blocks `n` elements make, the last one perhaps shorter."""
    return -(-n // blocksize)
