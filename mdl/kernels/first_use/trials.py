"""One kernel at a model's sizes, what would run without it, and the exact result."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

import mdl.kernels as kernels
from mdl.kernels.nf4 import reference_dequantize_4bit
from mdl.kernels.ops import apply_glu
from mdl.kernels.swap import Need

_HIDDEN = 1024
"""Most columns of the head in the loss's trial: they are the matrix product's, not our kernel's."""

Results = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Trial:
    """Functions of the same tensors. leaves: those that have gradients, in the need's dtype.

    exact: as `other` computes it, of leaves in a wider dtype. against: what `other` is.
    """

    leaves: list[torch.Tensor]
    ours: Callable[..., Any]
    other: Callable[..., Any]
    exact: Callable[..., Any]
    against: str = "torch"

    def run(self, way: Callable[..., Any], leaves: list[torch.Tensor], gradients: bool) -> Results:
        """The results of one way and, if asked for, the gradients of their weighted sum."""
        if not gradients:
            with torch.no_grad():
                return _tuple(way(*leaves))
        leaves = [one.detach().requires_grad_() for one in leaves]
        found = _tuple(way(*leaves))
        total = sum(((one * _slope(one)).sum() for one in found), torch.zeros(()).to(found[0]))
        return (*(one.detach() for one in found), *torch.autograd.grad(total, leaves))


def _tuple(value: Any) -> Results:
    return value if isinstance(value, tuple) else (value,)


def _slope(result: torch.Tensor) -> torch.Tensor:
    # Uneven within a row, for a norm's gradient of an even one is all cancellation; and eighths,
    # which every dtype has.
    steps = torch.arange(result.numel(), device=result.device) * 7919 % 17
    return ((steps - 8) / 8).view_as(result).to(result.dtype)


def stages(need: Need) -> Iterator[tuple[int, bool]]:
    """(rows, with gradients) at which a need is checked; a loss is only ever trained with."""
    if need.operation != "cross_entropy":
        yield from ((1, False), (16, False), (512, False))
    yield 512, True


def error_of(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error of an element, relative to its size plus the root mean square of all.

    Infinite where shapes differ, or NaN does not meet NaN.
    """
    a, b = ours.detach().to(exact.dtype), exact.detach()
    if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
        return float("inf")
    if not b.numel():
        return 0.0
    scale = b.abs() + b.pow(2).mean().sqrt()
    return float(((a - b).abs() / scale.clamp(min=1e-30)).max())


def trial(need: Need, rows: int, device: torch.device) -> Trial:
    """The trial of a need, of random numbers, the same at every call.

    Raises:
        KeyError: an operation that is not known.
    """
    made = torch.Generator(device=device).manual_seed(0)
    dtype = getattr(torch, need.dtype)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made, device=device).to(dtype)

    return _TRIALS[need.operation](need, rows, normal)


def _products(need: Need, rows: int, normal: Callable[..., torch.Tensor]) -> Trial:
    n, k, blocksize, nested = need.sizes[:4]
    weight = kernels.quantize_4bit(
        normal(n, k) / k**0.5, blocksize=blocksize, quant_type=need.variant, nested=nested > 0
    )
    wide = torch.empty((n, k), dtype=torch.float32, device=weight.packed.device)
    reference_dequantize_4bit(weight, wide)
    theirs, against = _library_product(weight)

    def exact(x: torch.Tensor) -> torch.Tensor:
        return x @ wide.to(x.dtype).T

    if need.operation == "linear_4bit":
        ours: Callable[..., Any] = lambda x: kernels.linear_4bit(x, weight)  # noqa: E731
        return Trial([normal(rows, k)], ours, theirs, exact, against)
    rank = need.sizes[4]
    leaves = [normal(rows, k), normal(rank, k) / k**0.5, normal(n, rank)]
    return Trial(
        leaves,
        lambda x, a, b: kernels.lora_linear_4bit(x, weight, kernels.Lora(a, b, 0.5)),
        lambda x, a, b: theirs(x) + (x @ a.T) @ b.T * 0.5,
        lambda x, a, b: exact(x) + (x @ a.T) @ b.T * 0.5,
        f"{against} + PEFT",
    )


def _library_product(weight: kernels.Packed4bit) -> tuple[Callable[..., Any], str]:
    """What multiplies with a 4-bit weight where no kernel of ours does."""
    try:
        import bitsandbytes
    except ImportError:
        return lambda x: x @ kernels.dequantize_4bit(weight, x.dtype).T, "dequantize + cuBLAS"
    packed, state = weight.to_bitsandbytes()
    return lambda x: bitsandbytes.matmul_4bit(x, packed, quant_state=state), "bitsandbytes"


def _rms(x: torch.Tensor, weight: torch.Tensor, gemma: bool) -> torch.Tensor:
    """As transformers has it."""
    wide = x.double() if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    if gemma:
        return (normed * (1.0 + weight.to(normed.dtype))).to(x.dtype)
    return weight * normed.to(x.dtype)


def _norm(need: Need, rows: int, normal: Callable[..., torch.Tensor]) -> Trial:
    (h,), gemma = need.sizes, need.variant == "gemma"
    how: dict[str, Any] = {"offset": 1.0, "cast": False} if gemma else {}

    def added(x: torch.Tensor, residual: torch.Tensor, w: torch.Tensor) -> Results:
        total = x + residual
        return _rms(total, w, gemma), total

    if need.operation == "add_rms_norm":
        leaves = [normal(rows, h), normal(rows, h), normal(h)]
        ours: Callable[..., Any] = lambda x, r, w: kernels.add_rms_norm(x, r, w, **how)  # noqa: E731
        return Trial(leaves, ours, added, added)
    plain: Callable[..., Any] = lambda x, w: _rms(x, w, gemma)  # noqa: E731
    leaves = [normal(rows, h), normal(h)]
    return Trial(leaves, lambda x, w: kernels.rms_norm(x, w, **how), plain, plain)


def _layer_norm(need: Need, rows: int, normal: Callable[..., torch.Tensor]) -> Trial:
    (h,) = need.sizes
    plain: Callable[..., Any] = lambda x, w, b: functional.layer_norm(x, (h,), w, b, 1e-5)  # noqa: E731
    leaves = [normal(rows, h), normal(h), normal(h)]
    return Trial(leaves, lambda x, w, b: kernels.layer_norm(x, w, b, 1e-5), plain, plain)


def _rope(need: Need, rows: int, normal: Callable[..., torch.Tensor]) -> Trial:
    q_heads, k_heads, width = need.sizes
    leaves = [normal(1, heads, rows, width) for heads in (q_heads, k_heads)]
    place = torch.arange(rows, device=leaves[0].device, dtype=torch.float64)[:, None]
    angle = place / 10000 ** torch.linspace(0, 1, width // 2, device=place.device)
    table = torch.cat([angle, angle], -1)[None]
    dtype = torch.float32 if need.variant else leaves[0].dtype
    cos, sin = table.cos().to(dtype), table.sin().to(dtype)

    def turn(x: torch.Tensor) -> torch.Tensor:
        c, s = (one.to(torch.promote_types(x.dtype, dtype))[:, None] for one in (cos, sin))
        left, right = x.chunk(2, dim=-1)
        return (x * c + torch.cat([-right, left], -1) * s).to(x.dtype)

    def plain(q: torch.Tensor, k: torch.Tensor) -> Results:
        return turn(q), turn(k)

    return Trial(leaves, lambda q, k: kernels.apply_rope(q, k, cos, sin), plain, plain)


def _glu(need: Need, rows: int, normal: Callable[..., torch.Tensor]) -> Trial:
    activations: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    }
    activation = activations[need.variant]
    leaves = [normal(rows, need.sizes[0]) for _ in range(2)]
    plain: Callable[..., Any] = lambda gate, up: activation(gate) * up  # noqa: E731
    return Trial(leaves, lambda gate, up: apply_glu(gate, up, need.variant), plain, plain)


def _loss(need: Need, rows: int, normal: Callable[..., torch.Tensor]) -> Trial:
    vocabulary, hidden = need.sizes[0], min(need.sizes[1], _HIDDEN)
    head, x = normal(vocabulary, hidden) / hidden**0.5, normal(rows, hidden)
    labels = torch.arange(rows, device=x.device) * 7919 % vocabulary
    labels[1::5] = -100

    def plain(x: torch.Tensor) -> torch.Tensor:
        logits = x @ head.to(x.dtype).T
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return functional.cross_entropy(wide, labels)

    ours: Callable[..., Any] = lambda x: kernels.fused_linear_cross_entropy(x, head, labels)  # noqa: E731
    return Trial([x], ours, plain, plain)


_TRIALS: dict[str, Callable[[Need, int, Callable[..., torch.Tensor]], Trial]] = {
    "linear_4bit": _products,
    "lora_4bit": _products,
    "rms_norm": _norm,
    "add_rms_norm": _norm,
    "layer_norm": _layer_norm,
    "rope": _rope,
    "glu": _glu,
    "cross_entropy": _loss,
}
