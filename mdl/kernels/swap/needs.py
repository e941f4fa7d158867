"""Which operations a model needs, at which sizes: what has to be right before kernels go in."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mdl.kernels.nf4 import DTYPES
from mdl.kernels.swap.decoder_layer import norm_after_sum
from mdl.kernels.swap.forwards import activation_kind, packed_weight, single_adapter
from mdl.kernels.swap.model import candidates
from mdl.kernels.swap.registry import OPERATIONS
from mdl.kernels.swap.subclass import path_of


@dataclass(frozen=True)
class Need:
    """One operation at the sizes of one kind of module.

    sizes: linear_4bit (N, K, block size, nested block size or 0); lora_4bit the same and the rank;
    norms (H,); rope (heads of Q, of K, D); glu (I,); cross_entropy (V, H).
    dtype: what is computed in, as torch names it. variant: 4-bit type, activation, norm family.
    """

    operation: str
    sizes: tuple[int, ...]
    dtype: str
    variant: str = ""

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.sizes[:2] if "4bit" in self.operation else self.sizes))
        return " ".join(filter(None, (self.operation, sizes, self.variant, self.dtype)))


def needs_of(model: torch.nn.Module, operations: Collection[str]) -> tuple[Need, ...]:
    """What `apply` would put into the model, each need once, in the order of `OPERATIONS`."""
    found = (
        need_of(one.module, one.operation, dtype_of(model))
        for one in candidates(model, operations)
        if not one.why
    )
    order = [one.name for one in OPERATIONS]
    needs = dict.fromkeys(need for need in found if need is not None)
    return tuple(sorted(needs, key=lambda need: order.index(need.operation)))


def dtype_of(model: Any) -> str:
    """The dtype a model computes in; float32 if it does not say."""
    return _name(getattr(model, "dtype", torch.float32))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def need_of(module: Any, operation: str, dtype: str) -> Need | None:
    """What a module needs of an operation; None if its sizes cannot be read, or in float64.

    Args:
        dtype: the model's, for modules without one of their own.
    """
    try:
        sizes, variant = _READ[operation](module)
    except (AttributeError, TypeError):  # another version of its library
        return None
    compute = getattr(_base(module), "compute_dtype", None) if "4bit" in operation else None
    dtype = _name(compute) if compute else dtype
    return Need(operation, sizes, dtype, variant) if dtype in map(_name, DTYPES) else None


def _base(module: Any) -> Any:
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def _linear(module: Any) -> tuple[tuple[int, ...], str]:
    weight: Any = packed_weight(_base(module))
    nested = weight.nested.blocksize if weight.nested else 0
    return (*weight.shape, weight.blocksize, nested), weight.quant_type


def _lora(module: Any) -> tuple[tuple[int, ...], str]:
    sizes, variant = _linear(module)
    return (*sizes, module.lora_A[single_adapter(module)].weight.shape[0]), variant


def _norm(module: Any) -> tuple[tuple[int, ...], str]:
    gemma = ".gemma" in path_of(type(module))
    return (module.weight.shape[0],), "gemma" if gemma else ""


def _add_norm(module: Any) -> tuple[tuple[int, ...], str]:
    return _norm(norm_after_sum(module))


def _rope(module: Any) -> tuple[tuple[int, ...], str]:
    config = getattr(module, "config", None)
    heads = _first(config, "num_attention_heads") or module.num_heads
    pairs = _first(config, "num_key_value_heads") or heads
    vision = path_of(type(module)).endswith("VisionAttention")
    return (heads, pairs, module.head_dim), "float32 tables" if vision else ""


def _first(config: Any, name: str) -> int:
    return int(getattr(config, name, None) or 0)


def _glu(module: Any) -> tuple[tuple[int, ...], str]:
    if hasattr(module, "gate_proj"):
        return (module.gate_proj.out_features,), activation_kind(module.act_fn) or ""
    halves = module.gate_up_proj.out_features
    return (halves // 2,), activation_kind(module.activation_fn) or ""


def _loss(module: Any) -> tuple[tuple[int, ...], str]:
    return tuple(module.lm_head.weight.shape), ""


_READ = {
    "linear_4bit": _linear,
    "lora_4bit": _lora,
    "rms_norm": _norm,
    "add_rms_norm": _add_norm,
    "layer_norm": _norm,
    "rope": _rope,
    "glu": _glu,
    "cross_entropy": _loss,
}


def llama_8b() -> Iterator[Need]:
    """What Llama 3.1 8B needs in double-quantized NF4."""
    for n, k in ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336)):
        yield Need("linear_4bit", (n, k, 64, 256), "bfloat16", "nf4")
    yield Need("rms_norm", (4096,), "bfloat16")
    yield Need("add_rms_norm", (4096,), "bfloat16")
    yield Need("rope", (32, 8, 128), "bfloat16")
    yield Need("glu", (14336,), "bfloat16", "silu")
    yield Need("cross_entropy", (128256, 4096), "bfloat16")
