"""4-bit NormalFloat weights: their layout, quantizing and dequantizing."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.kernels.nf4.kernels import load_scale, load_some
    from mdl.kernels.nf4.packed import (
        DTYPES,
        FLAT_SCHEMA,
        Nested,
        Packed4bit,
        blocks_of,
        check_packed,
    )
    from mdl.kernels.nf4.quantize import dequantize_4bit, dequantize_4bit_into, quantize_4bit
    from mdl.kernels.nf4.reference import reference_dequantize_4bit, reference_quantize_4bit
    from mdl.kernels.nf4.tables import GRID

__getattr__ = door(
    __name__,
    {
        "kernels": "load_scale load_some",
        "packed": "DTYPES FLAT_SCHEMA Nested Packed4bit blocks_of check_packed",
        "quantize": "dequantize_4bit dequantize_4bit_into quantize_4bit",
        "reference": "reference_dequantize_4bit reference_quantize_4bit",
        "tables": "GRID",
    },
)
