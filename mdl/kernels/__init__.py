"""Operations with three faces: the Triton kernel, the autograd function, the torch twin.

The twin defines what is right and runs where there is no NVIDIA GPU; the kernel gives the same
answer faster. Importing this package costs torch, never Triton.

>>> from mdl import kernels
>>> print(kernels.apply(model))          # which modules were swapped, which were left and why
>>> kernels.remove(model)                # exactly as it was
"""

from mdl.kernels.applying import Applied, apply, ls, remove
from mdl.kernels.glu import geglu, swiglu
from mdl.kernels.linear4bit import linear_4bit
from mdl.kernels.lora import Lora, lora_linear_4bit
from mdl.kernels.loss import LossOptions, cross_entropy, fused_linear_cross_entropy
from mdl.kernels.nf4 import dequantize_4bit, quantize_4bit
from mdl.kernels.nf4_layout import Nested, Packed4bit
from mdl.kernels.norm import add_rms_norm, layer_norm, rms_norm
from mdl.kernels.rope import rope

__all__ = [
    "Applied",
    "Lora",
    "LossOptions",
    "Nested",
    "Packed4bit",
    "add_rms_norm",
    "apply",
    "cross_entropy",
    "dequantize_4bit",
    "fused_linear_cross_entropy",
    "geglu",
    "layer_norm",
    "linear_4bit",
    "lora_linear_4bit",
    "ls",
    "quantize_4bit",
    "remove",
    "rms_norm",
    "rope",
    "swiglu",
]
