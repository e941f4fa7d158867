"""The layers around the products, beside torch, torch.compile and Liger."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

import mdl.kernels as kernels
from mdl.kernels.bench.case import Case, Sizes, normal
from mdl.kernels.bench.others import compiled, optional
from mdl.kernels.ops import reference_rope


def norms(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """RMSNorm, alone and with the residual add before it."""
    for h in sizes.hidden:
        yield from _norm(device, sizes.tokens, h)


def _norm(device: torch.device, tokens: int, h: int) -> Iterator[Case]:
    liger = optional("liger_kernel.transformers.functional")
    x, residual, w = (normal(device, *s) for s in ((tokens, h), (tokens, h), (h,)))

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


def rope(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """Rotary embedding of Q and K."""
    liger = optional("liger_kernel.transformers.functional")
    hq, hk, d = sizes.heads
    t = sizes.tokens
    q, k = (normal(device, 1, t, h, d).transpose(1, 2) for h in (hq, hk))
    angle = torch.rand(1, t, d // 2, device=device) * 6
    cos, sin = (torch.cat([f, f], -1).bfloat16() for f in (angle.cos(), angle.sin()))
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: kernels.apply_rope(q, k, cos, sin)[0],
        "torch": lambda: (reference_rope(q, cos, sin), reference_rope(k, cos, sin))[0],
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
        lambda: reference_rope(q.double(), cos.double(), sin.double()),
        bytes=4 * d * (hq + hk) * t,
        goal=0.85,
    )


def glu(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """SwiGLU and GeGLU, forward and gradients."""
    liger = optional("liger_kernel.transformers.functional")
    i, t = sizes.intermediate, sizes.tokens
    gate, up = (normal(device, t, i).requires_grad_() for _ in range(2))
    upper = normal(device, t, i)
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


def loss(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """Cross-entropy with its gradient."""
    liger = optional("liger_kernel.transformers.functional")
    t, v = sizes.tokens, sizes.vocabulary
    labels = torch.randint(0, v, (t,), device=device)
    logits = (normal(device, t, v) * 2).requires_grad_()

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


def fused_loss(device: torch.device, sizes: Sizes) -> Iterator[Case]:
    """Output projection and cross-entropy in one, with a frozen head."""
    liger = optional("liger_kernel.transformers.functional")
    t, v, h = sizes.tokens, sizes.vocabulary, sizes.hidden[0]
    labels = torch.randint(0, v, (t,), device=device)
    hidden, head = normal(device, t, h).requires_grad_(), normal(device, v, h) / h**0.5
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
