"""4-bit and transformer-layer operations: a Triton kernel each, and a torch reference beside it.

The reference defines the result and runs where there is no NVIDIA GPU; the kernel computes the same
faster. Importing this package costs torch, never Triton.

>>> import mdl
>>> from mdl import kernels
>>> model = mdl.load("Qwen/Qwen2.5-0.5B-Instruct", load_in_4bit=True, kernels=False).model
>>> print(kernels.apply(model))          # which modules run kernels, which do not and why
>>> kernels.remove(model)                # back to the original classes
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.kernels.first_use import (
        Checked,
        Limits,
        OperationReport,
        Record,
        apply_checked,
        decide,
        prove,
        records_in,
        report_operations,
    )
    from mdl.kernels.nf4 import Nested, Packed4bit, dequantize_4bit, quantize_4bit
    from mdl.kernels.ops import (
        Lora,
        LossOptions,
        add_rms_norm,
        apply_rope,
        cross_entropy,
        fused_linear_cross_entropy,
        geglu,
        layer_norm,
        linear_4bit,
        lora_linear_4bit,
        rms_norm,
        swiglu,
    )
    from mdl.kernels.runtime import failed_kernels
    from mdl.kernels.self_check import backend, check_here, failures
    from mdl.kernels.swap import Applied, apply, ls, remove

__getattr__ = door(
    __name__,
    {
        "first_use": (
            "Checked Limits OperationReport Record apply_checked decide prove records_in "
            "report_operations"
        ),
        "nf4": "Nested Packed4bit dequantize_4bit quantize_4bit",
        "ops": (
            "Lora LossOptions add_rms_norm apply_rope cross_entropy fused_linear_cross_entropy "
            "geglu layer_norm linear_4bit lora_linear_4bit rms_norm swiglu"
        ),
        "runtime": "failed_kernels",
        "self_check": "backend check_here failures",
        "swap": "Applied apply ls remove",
    },
)
