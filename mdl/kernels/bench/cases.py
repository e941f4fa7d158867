"""What is measured, operation by operation, beside whom, and how many bytes it must move."""

from collections.abc import Iterator

import torch

from mdl.kernels.bench.case import Case, Sizes
from mdl.kernels.bench.cases_4bit import formats, products, training
from mdl.kernels.bench.cases_layers import fused_loss, glu, loss, norms, rope

OPERATIONS = (
    "dequantize_4bit",
    "quantize_4bit",
    "linear_4bit",
    "linear_4bit, forward and gradient",
    "lora_4bit, forward and gradients",
    "rms_norm",
    "add_rms_norm",
    "rope",
    "swiglu",
    "swiglu, gradients",
    "geglu",
    "geglu, gradients",
    "cross_entropy, with gradient",
    "fused_linear_cross_entropy, frozen head",
)
"""What the cases measure."""


def cases(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """All cases; each is built when it is asked for, so that only one holds memory."""
    for build in (formats, products, training, norms, rope, glu, loss, fused_loss):
        yield from build(device, sizes)
