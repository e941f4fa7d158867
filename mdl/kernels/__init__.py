"""Operations with three faces: the Triton kernel, the autograd function, the torch twin.

The twin defines what is right and runs where there is no NVIDIA GPU; the kernel gives the same
answer faster. Importing this package costs torch, never Triton.
"""

from mdl.kernels.linear4bit import linear_4bit
from mdl.kernels.nf4 import dequantize_4bit, quantize_4bit
from mdl.kernels.nf4_layout import Nested, Packed4bit

__all__ = ["Nested", "Packed4bit", "dequantize_4bit", "linear_4bit", "quantize_4bit"]
