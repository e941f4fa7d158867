"""What each scalar instruction computes, on arrays with one element per thread."""

import functools
from collections.abc import Callable

import numpy as np

from ptx_emulator.parse import Instruction

KINDS = {
    "pred": np.dtype(bool),
    **{f"{letter}{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8) for letter in "bu"},
    **{f"s{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    "f16": np.dtype("f2"),
    "f32": np.dtype("f4"),
    "f64": np.dtype("f8"),
    "bf16": np.dtype("u2"),
    "f16x2": np.dtype("u4"),
    "bf16x2": np.dtype("u4"),
    "f32x2": np.dtype("u8"),
}
"""numpy dtype of each PTX type; packed pairs and bfloat16 are kept as bits."""

Compute = Callable[..., np.ndarray]


def to_bf16(value: np.ndarray) -> np.ndarray:
    """float32 to the bits of bfloat16, rounded to nearest even."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(value), 0x7FFF, rounded).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 to float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """`a * b + c` in float32, rounded once.

    The product is exact in float64. Its sum with c is rounded to odd, so that the second rounding
    cannot see a tie that the first made (Boldo and Melquiond, 2008).
    """
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = np.asarray(product + addend)
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    bits = total.view(np.int64)
    inexact = (lost != 0) & np.isfinite(total) & (bits & 1 == 0)
    toward = np.where((lost > 0) == (total > 0), 1, -1)
    return np.where(inexact, bits + toward, bits).view(np.float64).astype(np.float32)


def _flush(value: np.ndarray) -> np.ndarray:
    return np.where(np.abs(value) < np.float32(2.0**-126), np.copysign(np.float32(0), value), value)


def _shift(left: bool) -> Compute:
    def shift(a: np.ndarray, by: np.ndarray) -> np.ndarray:
        bits = 8 * a.dtype.itemsize
        amount = np.minimum(by, bits - 1).astype(a.dtype)
        moved = a << amount if left else a >> amount
        signed = a.dtype.kind == "i" and not left
        return moved if signed else np.where(by >= bits, a.dtype.type(0), moved)

    return shift


def _field(a: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    wide = a.astype(np.int64) if a.dtype.kind == "i" else a.astype(np.uint64).view(np.int64)
    start, length = start.astype(np.int64), length.astype(np.int64)
    part = (wide >> start) & ((np.int64(1) << length) - 1)
    if a.dtype.kind == "i":
        part = np.where(part >> (length - 1) & 1, part - (np.int64(1) << length), part)
    return part.astype(a.dtype)


def _permute(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
    both = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
    result = np.zeros(np.broadcast(a, b).shape, np.uint64)
    for place in range(4):
        nibble = (selector.astype(np.uint64) >> np.uint64(4 * place)) & np.uint64(15)
        byte = (both >> ((nibble & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
        sign = np.where(byte >> np.uint64(7), np.uint64(255), np.uint64(0))
        chosen = np.where(nibble >> np.uint64(3), sign, byte)
        result |= chosen << np.uint64(8 * place)
    return result.astype(np.uint32)


_COMPARE: dict[str, Compute] = {
    "eq": np.equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "ne": lambda a, b: (a < b) | (a > b),  # false for NaN, unlike `neu`
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),  # `u`: also true for NaN
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}
_PLAIN: dict[str, Compute] = {
    "add": np.add,
    "sub": np.subtract,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "div": np.divide,
    "ex2": np.exp2,
    "shl": _shift(left=True),
    "shr": _shift(left=False),
    "bfe": _field,
    "prmt": _permute,
    "mov": np.positive,
    "selp": lambda a, b, chosen: np.asarray(np.where(chosen, a, b)),
}


_MODIFIERS = {"rn", "rzi", "ftz", "lo", "wide", "approx", "full", *KINDS, *_COMPARE}
"""Words between an instruction's name and type that are implemented, or make no difference."""


@functools.cache
def compute_of(instruction: Instruction) -> tuple[Compute, list[np.dtype], np.dtype]:
    """(function, dtypes of its sources, dtype of its result) for a scalar instruction.

    Raises:
        NotImplementedError: the instruction is not covered.
    """
    words, kind = instruction.words, instruction.type
    name = words[0]
    if kind not in KINDS or not set(words[1:]) <= _MODIFIERS:
        raise NotImplementedError(instruction.text)
    dtype = KINDS[kind]
    count = len(instruction.operands) - 1
    if name == "cvt":
        return _convert(instruction)
    if words[-2] == "f32" and kind in ("bf16", "f16"):
        return _mixed(instruction)
    if kind in ("bf16", "bf16x2", "f16x2", "f32x2") and name not in ("mov", "selp"):
        return _packed(instruction)
    if name == "setp" and words[1] in _COMPARE:
        return _COMPARE[words[1]], [dtype, dtype], KINDS["pred"]
    if name in ("mul", "mad") and dtype.kind in "ui":
        wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}") if "wide" in words else dtype
        sources = [dtype, dtype, wide][:count]
        return lambda a, b, *c: sum(c, a.astype(wide) * b.astype(wide)), sources, wide
    if name == "mul":
        return np.multiply, [dtype] * count, dtype
    if name == "fma":
        flush = _flush if "ftz" in words else np.positive
        return lambda a, b, c: flush(fma(flush(a), flush(b), flush(c))), [dtype] * 3, dtype
    if name in ("min", "max"):
        floats = {"min": np.fmin, "max": np.fmax}  # a number wins over NaN
        integers = {"min": np.minimum, "max": np.maximum}
        best = (floats if dtype.kind == "f" else integers)[name]
        return lambda *values: functools.reduce(best, values), [dtype] * count, dtype
    if name not in _PLAIN or getattr(_PLAIN[name], "nin", count) != count:
        raise NotImplementedError(instruction.text)
    sources = [dtype] * count
    if name in ("shl", "shr"):
        sources[1] = KINDS["u32"]
    elif name == "bfe":
        sources[1:] = [KINDS["u32"]] * 2
    elif name == "selp":
        sources[2] = KINDS["pred"]
    function = _PLAIN[name]
    if kind == "pred":
        function = {"not": np.logical_not}.get(name, function)
        function = np.array if name == "mov" else function
    if "ftz" in words:
        plain = function
        return lambda *values: _flush(plain(*map(_flush, values))), sources, dtype
    return function, sources, dtype


def _convert(instruction: Instruction) -> tuple[Compute, list[np.dtype], np.dtype]:
    target, source = instruction.words[-2:]
    kinds = [KINDS[source]] * (len(instruction.operands) - 1)
    dtype = KINDS[target]
    if source == "bf16":
        return from_bf16, kinds, dtype
    if target == "bf16":
        return to_bf16, kinds, dtype
    if target in ("bf16x2", "f16x2"):
        half = to_bf16 if target == "bf16x2" else _to_half
        return lambda high, low: _pack(half(low), half(high)), kinds, dtype
    if dtype.kind in "ui" and kinds[0].kind == "f":
        if "rzi" not in instruction.words:
            raise NotImplementedError(instruction.text)
        limits = np.iinfo(dtype)
        return (
            lambda a: np.clip(
                np.nan_to_num(np.trunc(a.astype(np.float64))), limits.min, limits.max
            ).astype(dtype),
            kinds,
            dtype,
        )
    return lambda a: a.astype(dtype), kinds, dtype


def _to_half(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float16).view(np.uint16)


def _pack(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return low.astype(np.uint32) | (high.astype(np.uint32) << np.uint32(16))


def _mixed(instruction: Instruction) -> tuple[Compute, list[np.dtype], np.dtype]:
    """Blackwell's sums of a 16-bit and a float32 value, in float32."""
    narrow, wide = KINDS[instruction.type], KINDS["f32"]
    function = _PLAIN[instruction.name]
    widen = from_bf16 if instruction.type == "bf16" else lambda a: a.astype(np.float32)
    return lambda a, b: function(widen(a), b), [narrow, wide], wide


_OF_FLOATS: dict[str, Compute] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "fma": fma,
}  # fmt: skip


def _packed(instruction: Instruction) -> tuple[Compute, list[np.dtype], np.dtype]:
    """An operation on bfloat16 or on a packed pair."""
    kind, dtype = instruction.type, KINDS[instruction.type]
    if instruction.name not in _OF_FLOATS or "ftz" in instruction.words:
        raise NotImplementedError(instruction.text)
    function = _OF_FLOATS[instruction.name]

    def each(*values: np.ndarray) -> np.ndarray:
        if kind == "f32x2":
            return function(*(value.view(np.float32) for value in values)).view(np.uint64)
        halves = [value.view(np.uint16) for value in values]
        if kind == "f16x2":
            wide = function(*(half.view(np.float16).astype(np.float32) for half in halves))
            return _to_half(wide).view(np.uint32)
        return to_bf16(function(*(from_bf16(half) for half in halves))).view(dtype)

    return each, [dtype] * (len(instruction.operands) - 1), dtype
