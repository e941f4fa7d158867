"""Operations on activations: each with a Triton kernel, an autograd function and a reference."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.kernels.ops.glu import apply_glu, geglu, swiglu
    from mdl.kernels.ops.glu_reference import KINDS
    from mdl.kernels.ops.linear4bit import (
        HEIGHTS,
        gemm_plan,
        is_narrow,
        linear_4bit,
        loop_of,
        piece_of,
    )
    from mdl.kernels.ops.lora import Lora, lora_linear_4bit
    from mdl.kernels.ops.loss import cross_entropy, fused_linear_cross_entropy
    from mdl.kernels.ops.loss_options import LossOptions
    from mdl.kernels.ops.norm import add_rms_norm, layer_norm, rms_norm
    from mdl.kernels.ops.rope import apply_rope
    from mdl.kernels.ops.rope_reference import reference_rope

__getattr__ = door(
    __name__,
    {
        "glu": "apply_glu geglu swiglu",
        "glu_reference": "KINDS",
        "linear4bit": "HEIGHTS gemm_plan is_narrow linear_4bit loop_of piece_of",
        "lora": "Lora lora_linear_4bit",
        "loss": "cross_entropy fused_linear_cross_entropy",
        "loss_options": "LossOptions",
        "norm": "add_rms_norm layer_norm rms_norm",
        "rope": "apply_rope",
        "rope_reference": "reference_rope",
    },
)
