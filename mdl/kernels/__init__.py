"""Operations with three faces: the Triton kernel, the autograd function, the torch twin.

The twin defines what is right and runs where there is no NVIDIA GPU; the kernel gives the same
answer faster. Importing this package costs torch, never Triton.

>>> from mdl import kernels
>>> print(kernels.apply(model))          # which modules were swapped, which were left and why
>>> kernels.remove(model)                # exactly as it was
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.kernels.nf4.packed import Nested, Packed4bit
    from mdl.kernels.nf4.quantize import dequantize_4bit, quantize_4bit
    from mdl.kernels.ops.glu import geglu, swiglu
    from mdl.kernels.ops.linear4bit import linear_4bit
    from mdl.kernels.ops.lora import Lora, lora_linear_4bit
    from mdl.kernels.ops.loss import LossOptions, cross_entropy, fused_linear_cross_entropy
    from mdl.kernels.ops.norm import add_rms_norm, layer_norm, rms_norm
    from mdl.kernels.ops.rope import apply_rope
    from mdl.kernels.self_check import backend, check_here, failures
    from mdl.kernels.swap.apply import Applied, apply, ls, remove

__getattr__ = door(
    __name__,
    {
        "nf4.packed": "Nested Packed4bit",
        "nf4.quantize": "dequantize_4bit quantize_4bit",
        "ops.glu": "geglu swiglu",
        "ops.linear4bit": "linear_4bit",
        "ops.lora": "Lora lora_linear_4bit",
        "ops.loss": "LossOptions cross_entropy fused_linear_cross_entropy",
        "ops.norm": "add_rms_norm layer_norm rms_norm",
        "ops.rope": "apply_rope",
        "self_check": "backend check_here failures",
        "swap.apply": "Applied apply ls remove",
    },
)
