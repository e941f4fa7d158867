"""What is measured, operation by operation, beside whom, and how many bytes it must move."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

import mdl.kernels as kernels
from mdl.kernels import nf4_twin, rope_twin
from mdl.kernels.bench.others import compiled, optional

PACKED = 0.5 + 1 / 64 + 4 / 16384
"""Bytes of one NF4 weight with double quantization: 0.5159."""


@dataclass(frozen=True)
class Sizes:
    """The shapes of one run. projections: (label, N, K)."""

    projections: tuple[tuple[str, int, int], ...]
    rows: tuple[int, ...]
    tokens: int
    hidden: tuple[int, ...]
    intermediate: int
    vocabulary: int
    heads: tuple[int, int, int]
    lora_rank: int = 16


REAL = Sizes(
    projections=(
        ("Llama-3.1-8B q, o", 4096, 4096),
        ("Llama-3.1-8B k, v", 1024, 4096),
        ("Llama-3.1-8B gate, up", 14336, 4096),
        ("Llama-3.1-8B down", 4096, 14336),
        ("Llama-3.1-70B q, o", 8192, 8192),
        ("Llama-3.1-70B gate, up", 28672, 8192),
        ("Llama-3.1-70B down", 8192, 28672),
        ("Qwen2-7B q, o", 3584, 3584),
        ("Qwen2-7B k, v", 512, 3584),
        ("Qwen2-7B gate, up", 18944, 3584),
        ("Qwen2-7B down", 3584, 18944),
        ("K not a multiple of 64", 4096, 4000),
    ),
    rows=(1, 2, 4, 8, 16, 32, 64, 128),
    tokens=4096,
    hidden=(4096, 8192),
    intermediate=14336,
    vocabulary=128256,
    heads=(32, 8, 128),
)
TINY = Sizes((("tiny", 96, 128), ("tiny odd", 32, 72)), (1, 3), 8, (64,), 96, 200, (4, 2, 16))


@dataclass(frozen=True)
class Case:
    """One operation on one shape.

    contenders: callables by name; 'ours' among them. bytes: what must be moved at least.
    flops: floating-point operations, 0 where memory is the limit. exact: the reference result.
    goal: the share of a copy (or of the matrix product) that is aimed at. of: an operation in
    `mdl.kernels.check` that must be right first.
    """

    operation: str
    shape: str
    of: str
    contenders: dict[str, Callable[[], Any]]
    exact: Callable[[], torch.Tensor]
    bytes: float = 0.0
    flops: float = 0.0
    goal: float | None = None
    limit: float = 3e-2


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
    for build in (_formats, _products, _training, _norms, _rope, _glu, _loss, _fused_loss):
        yield from build(device, sizes)


def _normal(device: torch.device, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=device, dtype=torch.bfloat16)


def _formats(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    for label, n, k in sizes.projections:
        yield from _format(device, label, n, k)


def _format(device: torch.device, label: str, n: int, k: int) -> Iterator[Case]:
    bnb = optional("bitsandbytes.functional")
    dense = _normal(device, n, k) / k**0.5
    weight = kernels.quantize_4bit(dense)
    packed, state = weight.to_bitsandbytes() if bnb else (None, None)
    theirs = {} if bnb is None else {"bitsandbytes": lambda: bnb.dequantize_4bit(packed, state)}
    yield Case(
        "dequantize_4bit",
        f"{label} {n}x{k}",
        "dequantize_4bit",
        {"ours": lambda: kernels.dequantize_4bit(weight), **theirs},
        lambda: nf4_twin.dequantize_4bit(weight, torch.empty_like(dense)),
        bytes=n * k * (PACKED + 2),
        goal=0.9,
        limit=0.0,
    )
    how = {"quant_type": "nf4", "compress_statistics": True}
    theirs = {} if bnb is None else {"bitsandbytes": lambda: bnb.quantize_4bit(dense, **how)}
    yield Case(
        "quantize_4bit",
        f"{label} {n}x{k}",
        "quantize_4bit",
        {"ours": lambda: kernels.quantize_4bit(dense).packed, **theirs},
        lambda: nf4_twin.quantize_4bit(dense.cpu(), 64, "nf4")[0],
        bytes=n * k * (PACKED + 2),
        goal=0.8,
        limit=0.0,
    )


def _products(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    for label, n, k in sizes.projections:
        weight = kernels.quantize_4bit(_normal(device, n, k) / k**0.5)
        for m in sizes.rows:
            yield _product(weight, _normal(device, m, k), label)


def _product(weight: kernels.Packed4bit, x: torch.Tensor, label: str) -> Case:
    bnb = optional("bitsandbytes")
    (n, k), m = weight.shape, x.shape[0]
    packed, state = weight.to_bitsandbytes() if bnb else (None, None)
    decoded = kernels.dequantize_4bit(weight)
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: kernels.linear_4bit(x, weight),
        "ours, batch-invariant": lambda: kernels.linear_4bit(x, weight, batch_invariant=True),
        "dequantize + cuBLAS": lambda: x @ kernels.dequantize_4bit(weight).T,
        "cuBLAS, 16-bit weight": lambda: x @ decoded.T,
    }
    if bnb is not None:
        contenders["bitsandbytes"] = lambda: bnb.matmul_4bit(x, packed, quant_state=state)
    return Case(
        "linear_4bit",
        f"{label} {n}x{k}, {m} rows",
        "linear_4bit",
        contenders,
        lambda: x.double() @ decoded.double().T,
        bytes=n * k * PACKED + 2 * m * (n + k),
        goal=0.8 if m == 1 else 0.7 if m <= 16 else 0.55 if m <= 64 else None,
    )


def _training(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    label, n, k = sizes.projections[0]
    rank, tokens = sizes.lora_rank, sizes.tokens
    weight = kernels.quantize_4bit(_normal(device, n, k) / k**0.5)
    decoded, x = kernels.dequantize_4bit(weight), _normal(device, tokens, k)
    x.requires_grad_()
    up = _normal(device, tokens, n)
    a, b = _normal(device, rank, k).requires_grad_(), _normal(device, n, rank).requires_grad_()

    def both(made: torch.Tensor, *leaves: torch.Tensor) -> Any:
        return torch.autograd.grad(made, leaves, up)

    yield Case(
        "linear_4bit, forward and gradient",
        f"{label} {n}x{k}, {tokens} tokens",
        "linear_4bit",
        {
            "ours": lambda: both(kernels.linear_4bit(x, weight), x)[0],
            "cuBLAS, 16-bit weight": lambda: both(x @ decoded.T, x)[0],
        },
        lambda: up.double() @ decoded.double(),
        flops=4 * tokens * n * k,
        goal=0.95,
    )
    lora = kernels.Lora(a, b, 0.5)
    yield Case(
        "lora_4bit, forward and gradients",
        f"{label} {n}x{k}, {tokens} tokens, rank {rank}",
        "lora_4bit",
        {
            "ours": lambda: both(kernels.lora_linear_4bit(x, weight, lora), x, a, b)[0],
            "ours, without LoRA": lambda: both(kernels.linear_4bit(x, weight), x)[0],
            "unfused": lambda: both(
                kernels.linear_4bit(x, weight) + (x @ a.T) @ b.T * 0.5, x, a, b
            )[0],
        },
        lambda: up.double() @ (decoded.double() + 0.5 * b.double() @ a.double()),
        flops=4 * tokens * n * k,
    )


def _norms(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    for h in sizes.hidden:
        yield from _norm(device, sizes.tokens, h)


def _norm(device: torch.device, tokens: int, h: int) -> Iterator[Case]:
    liger = optional("liger_kernel.transformers.functional")
    x, residual, w = (_normal(device, *s) for s in ((tokens, h), (tokens, h), (h,)))

    def eager(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return w * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    quick = compiled(eager)
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: kernels.rms_norm(x, w),
        "torch": lambda: eager(x, w),
        "torch.compile": lambda: quick(x, w),
    }
    if liger is not None:
        contenders["liger"] = lambda: liger.liger_rms_norm(x, w, 1e-6)
    yield Case(
        "rms_norm",
        f"{tokens}x{h}",
        "rms_norm",
        contenders,
        lambda: eager(x.double(), w.double()),
        bytes=4 * h * tokens,
        goal=0.9,
    )
    added: dict[str, Callable[[], Any]] = {
        "ours": lambda: kernels.add_rms_norm(x, residual, w)[0],
        "torch": lambda: eager(x + residual, w),
    }
    if liger is not None:
        added["liger"] = lambda: liger.liger_fused_add_rms_norm(x, residual, w, 1e-6)[0]
    yield Case(
        "add_rms_norm",
        f"{tokens}x{h}",
        "add_rms_norm",
        added,
        lambda: eager((x + residual).double(), w.double()),
        bytes=8 * h * tokens,
        goal=0.9,
    )


def _rope(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    liger = optional("liger_kernel.transformers.functional")
    hq, hk, d = sizes.heads
    t = sizes.tokens
    q, k = (_normal(device, 1, t, h, d).transpose(1, 2) for h in (hq, hk))
    angle = torch.rand(1, t, d // 2, device=device) * 6
    cos, sin = (torch.cat([f, f], -1).bfloat16() for f in (angle.cos(), angle.sin()))
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: kernels.rope(q, k, cos, sin)[0],
        "torch": lambda: (rope_twin.rope(q, cos, sin), rope_twin.rope(k, cos, sin))[0],
    }
    if liger is not None:
        # Liger rotates in place: a copy of its own, so that ours stays what it was.
        mine = (q.clone(), k.clone())
        contenders["liger"] = lambda: liger.liger_rope(*mine, cos, sin)[0]
    yield Case(
        "rope",
        f"{t} tokens, {hq}+{hk} heads of {d}",
        "rope",
        contenders,
        lambda: rope_twin.rope(q.double(), cos.double(), sin.double()),
        bytes=4 * d * (hq + hk) * t,
        goal=0.85,
    )


def _glu(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    liger = optional("liger_kernel.transformers.functional")
    i, t = sizes.intermediate, sizes.tokens
    gate, up = (_normal(device, t, i).requires_grad_() for _ in range(2))
    upper = _normal(device, t, i)
    table: tuple[tuple[str, Callable[..., Any], Callable[..., Any], str], ...] = (
        ("swiglu", kernels.swiglu, functional.silu, "liger_swiglu"),
        ("geglu", kernels.geglu, lambda x: functional.gelu(x, approximate="tanh"), "liger_geglu"),
    )
    for name, ours, activation, theirs in table:
        ways: dict[str, Callable[..., Any]] = {
            "ours": ours,
            "torch": lambda g, u, f=activation: f(g) * u,
        }
        if liger is not None:
            ways["liger"] = getattr(liger, theirs)
        yield from _gated(name, ways, activation, (gate, up, upper))


def _gated(
    name: str,
    ways: dict[str, Callable[..., Any]],
    activation: Callable[..., Any],
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> Iterator[Case]:
    gate, up, upper = inputs
    t, i = gate.shape
    plain = gate.detach(), up.detach()

    def forward(way: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: way(*plain)

    def backward(way: Callable[..., Any]) -> Callable[[], Any]:
        # Built at the first call, where a library that fails is caught; kept for the timed ones.
        made: list[torch.Tensor] = []

        def run() -> Any:
            if not made:
                made.append(way(gate, up))
            return torch.autograd.grad(made[0], (gate, up), upper, retain_graph=True)[1]

        return run

    yield Case(
        name,
        f"{t}x{i}",
        name,
        {who: forward(way) for who, way in ways.items()},
        lambda: activation(plain[0].double()) * plain[1].double(),
        bytes=6 * i * t,
        goal=0.9,
    )
    yield Case(
        f"{name}, gradients",
        f"{t}x{i}",
        name,
        {who: backward(way) for who, way in ways.items()},
        lambda: activation(plain[0].double()) * upper.double(),
        bytes=10 * i * t,
        goal=0.9,
    )


def _loss(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    liger = optional("liger_kernel.transformers.functional")
    t, v = sizes.tokens, sizes.vocabulary
    labels = torch.randint(0, v, (t,), device=device)
    logits = (_normal(device, t, v) * 2).requires_grad_()

    def loss_and_gradient(way: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(way(logits, labels), logits)[0]

    ways: dict[str, Callable[..., Any]] = {
        "ours": kernels.cross_entropy,
        "torch": lambda z, y: functional.cross_entropy(z.float(), y),
    }
    if liger is not None:
        # Liger writes its gradient over the logits: it gets a copy, and is slower by it.
        ways["liger, and a copy"] = lambda z, y: liger.liger_cross_entropy(z.clone(), y)
    yield Case(
        "cross_entropy, with gradient",
        f"{t}x{v}",
        "cross_entropy",
        {who: loss_and_gradient(way) for who, way in ways.items()},
        lambda: _loss_gradient(logits.detach(), labels),
        bytes=6 * v * t,
        goal=0.85,
    )


def _fused_loss(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    liger = optional("liger_kernel.transformers.functional")
    t, v, h = sizes.tokens, sizes.vocabulary, sizes.hidden[0]
    labels = torch.randint(0, v, (t,), device=device)
    hidden, head = _normal(device, t, h).requires_grad_(), _normal(device, v, h) / h**0.5
    fused: dict[str, Callable[[], Any]] = {
        "ours": lambda: torch.autograd.grad(
            kernels.fused_linear_cross_entropy(hidden, head, labels), hidden
        )[0],
        "torch": lambda: torch.autograd.grad(
            functional.cross_entropy((hidden @ head.T).float(), labels), hidden
        )[0],
    }
    if liger is not None:
        fused["liger"] = lambda: torch.autograd.grad(
            liger.liger_fused_linear_cross_entropy(hidden, head, labels), hidden
        )[0]
    yield Case(
        "fused_linear_cross_entropy, frozen head",
        f"{t}x{h}x{v}",
        "fused_linear_cross_entropy",
        fused,
        lambda: _loss_gradient(hidden.detach() @ head.T, labels) @ head.double(),
        flops=4 * t * h * v,
    )


def _loss_gradient(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(softmax - one-hot) / T in float64, made in place: a float64 copy is large."""
    share = torch.softmax(logits.double(), dim=-1)
    share[torch.arange(len(labels), device=labels.device), labels] -= 1.0
    return share.div_(len(labels))
