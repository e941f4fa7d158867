"""Formulas for the memory a model needs: weights and a training step.

All sizes are in bytes.

- 4-bit weights (bitsandbytes): half a byte per weight, plus a float32 scale per block of 64; with
  double quantization one byte per block, a float32 per 256 blocks, and 256 + 1 float32 once.
- A training step with Adam (Kingma and Ba 2015): for each trained parameter its gradient and two
  moments; with activation checkpointing, one hidden state per layer is kept and one layer at a
  time recomputed (Chen et al. 2016, arXiv:1604.06174).
"""

import math
from dataclasses import dataclass

from mdl.formats import ModelShape

BLOCK = 64
NESTED_BLOCK = 256
CODE_BYTES = 64  # each quantized weight has a table of sixteen float32 values


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by use; `total` is what a device needs for loading and generating."""

    weights: int
    kv_cache: int
    training: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache

    def to_json(self) -> dict[str, int]:
        return {
            "weights": self.weights,
            "kv_cache": self.kv_cache,
            "training": self.training,
            "total": self.total,
        }


def quantized_bytes(weights: int, *, double_quant: bool) -> int:
    """Bytes of a packed 4-bit matrix of `weights` elements, with its statistics."""
    blocks = math.ceil(weights / BLOCK)
    packed = math.ceil(weights / 2)
    if not double_quant:
        return packed + 4 * blocks + CODE_BYTES
    return packed + blocks + 4 * math.ceil(blocks / NESTED_BLOCK) + 4 * 257 + CODE_BYTES


def lora_parameters(shape: ModelShape, rank: int = 16) -> int:
    """Parameters of LoRA on the seven linear layers of each block: rank x (in + out)."""
    attention = shape.heads * shape.head_size
    kv = shape.kv_heads * shape.head_size
    layers = (
        (shape.hidden, attention), (shape.hidden, kv), (shape.hidden, kv),
        (attention, shape.hidden), (shape.hidden, shape.intermediate),
        (shape.hidden, shape.intermediate), (shape.intermediate, shape.hidden),
    )  # fmt: skip
    return shape.layers * rank * sum(a + b for a, b in layers)


def training_bytes(
    shape: ModelShape,
    trained: int,
    *,
    tokens: int,
    batch: int = 1,
    element: int = 2,
    master: int = 4,
) -> int:
    """Bytes a training step adds to the weights.

    Args:
        trained: number of parameters that get gradients.
        tokens: sequence length.
        element: bytes of an activation.
        master: bytes of a gradient and of each Adam moment (4 for float32).
    """
    states = trained * 3 * master
    position = batch * tokens * element
    kept = shape.layers * position * shape.hidden
    # One recomputed layer: its inputs, queries, keys, values, output, gate, up and their product.
    width = 4 * shape.hidden + 2 * (shape.heads + 2 * shape.kv_heads) * shape.head_size
    layer = position * (width + 3 * shape.intermediate)
    # Logits in the model's dtype, then float32 for the loss and its gradient.
    logits = batch * tokens * shape.vocabulary * (element + 4 + 4)
    return states + kept + layer + logits
