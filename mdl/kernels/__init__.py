"""Operations with three faces: the Triton kernel, the autograd function, the torch twin.

The twin defines what is right and runs where there is no NVIDIA GPU; the kernel gives the same
answer faster. Importing this package costs torch, never Triton.
"""

from mdl.kernels.glu import geglu, swiglu
from mdl.kernels.linear4bit import linear_4bit
from mdl.kernels.loss import LossOptions, cross_entropy, fused_linear_cross_entropy
from mdl.kernels.nf4 import dequantize_4bit, quantize_4bit
from mdl.kernels.nf4_layout import Nested, Packed4bit
from mdl.kernels.norm import add_rms_norm, layer_norm, rms_norm
from mdl.kernels.rope import rope

__all__ = [
    "LossOptions",
    "Nested",
    "Packed4bit",
    "add_rms_norm",
    "cross_entropy",
    "dequantize_4bit",
    "fused_linear_cross_entropy",
    "geglu",
    "layer_norm",
    "linear_4bit",
    "quantize_4bit",
    "rms_norm",
    "rope",
    "swiglu",
]
