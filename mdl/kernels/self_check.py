"""Every operation against a float64 reference, on whatever device it would run on.

`python -m mdl.kernels.self_check` prints the result as JSON; with `TRITON_INTERPRET=1` it checks
the Triton kernels themselves on a machine without a GPU, slowly and on small shapes.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional

import mdl.kernels as kernels
from mdl.errors import VerificationError
from mdl.kernels.nf4 import reference_dequantize_4bit, reference_quantize_4bit
from mdl.kernels.ops import reference_rope
from mdl.kernels.runtime import has_triton, interpreting, on_triton, raising_failures

LIMITS = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Check:
    """One comparison. error: largest difference, relative to the reference's largest value."""

    operation: str
    dtype: str
    error: float
    limit: float
    seconds: float

    @property
    def ok(self) -> bool:
        return self.error <= self.limit


@dataclass(frozen=True)
class Result:
    """What one check computes: pairs of a result and its float64 (or exact) reference."""

    pairs: list[tuple[torch.Tensor, torch.Tensor]]
    exact: bool = False


def run_checks(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> list[Check]:
    """All operations in all dtypes on `device`."""
    found = []
    for dtype in dtypes:
        for operation, function in _CHECKS.items():
            started = time.perf_counter()
            with raising_failures():
                result = function(_Maker(device, dtype))
            error = max(difference(ours, exact) for ours, exact in result.pairs)
            limit = 0.0 if result.exact else LIMITS[dtype]
            seconds = round(time.perf_counter() - started, 3)
            found.append(Check(operation, str(dtype)[6:], error, limit, seconds))
    return found


def backend(device: torch.device) -> str:
    """What runs the operations on `device`: `triton`, `interpreter` or `reference`."""
    if not on_triton(torch.empty(0, device=device)):
        return "reference"
    return "interpreter" if interpreting() else "triton"


def check_here() -> tuple[str, list[Check]]:
    """Check the best backend of this machine: the GPU, Triton's interpreter, or the references."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        return backend(device), run_checks(device, dtypes)
    if has_triton() and not interpreting():
        return _check_interpreted()
    return backend(torch.device("cpu")), run_checks(torch.device("cpu"), dtypes)


def _check_interpreted() -> tuple[str, list[Check]]:
    # TRITON_INTERPRET is read when a kernel is defined, so it needs a process of its own.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mdl.kernels.self_check"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise VerificationError(
            "The check in Triton's interpreter did not finish.",
            why=done.stderr.strip()[-500:],
            next="Run: TRITON_INTERPRET=1 python -m mdl.kernels.self_check",
        )
    body = json.loads(done.stdout)
    return body["backend"], [Check(**one) for one in body["checks"]]


def difference(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest difference, relative to the largest reference value; NaN must meet NaN."""
    a, b = ours.detach().double().cpu(), exact.detach().double().cpu()
    if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
        return float("inf")
    if not b.numel():
        return 0.0
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


class _Maker:
    """Random inputs on one device, the same at every call."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._random = torch.Generator().manual_seed(0)

    def normal(self, *shape: int) -> torch.Tensor:
        made = torch.randn(*shape, generator=self._random)
        return made.to(self.device, self.dtype)

    def leaf(self, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An input that needs a gradient, and its float64 copy."""
        made = self.normal(*shape)
        return made.requires_grad_(), made.detach().double().requires_grad_()

    def weight(self, n: int, k: int) -> tuple[kernels.Packed4bit, torch.Tensor]:
        """A packed weight and what it decodes to, float64."""
        packed = kernels.quantize_4bit(self.normal(n, k) / k**0.5)
        exact = torch.empty(n, k, dtype=torch.float32, device=self.device)
        return packed, reference_dequantize_4bit(packed, exact).double()


def _both(
    ours: torch.Tensor, exact: torch.Tensor, leaves: list[tuple[torch.Tensor, torch.Tensor]]
) -> Result:
    """The results, and the gradients of their weighted sums."""
    slope = torch.linspace(-1, 1, exact.numel(), device=exact.device).view_as(exact).double()
    mine = torch.autograd.grad((ours.double() * slope).sum(), [one for one, _ in leaves])
    theirs = torch.autograd.grad((exact * slope).sum(), [one for _, one in leaves])
    return Result([(ours, exact), *zip(mine, theirs, strict=True)])


def _quantize(make: _Maker) -> Result:
    tensor = make.normal(37, 96)
    on_cpu = kernels.quantize_4bit(tensor.cpu(), nested=False)
    packed, absmax = reference_quantize_4bit(tensor.cpu(), 64, "nf4")
    ours = kernels.quantize_4bit(tensor, nested=False)
    pairs = [(ours.packed, packed), (ours.absmax, absmax), (on_cpu.packed, packed)]
    return Result(pairs, exact=True)


def _dequantize(make: _Maker) -> Result:
    weight, _ = make.weight(37, 96)
    exact = torch.empty(37, 96, dtype=make.dtype, device=make.device)
    reference_dequantize_4bit(weight, exact)
    return Result([(kernels.dequantize_4bit(weight, make.dtype), exact)], exact=True)


def _linear(rows: int, invariant: bool = False) -> Callable[[_Maker], Result]:
    def check(make: _Maker) -> Result:
        pairs = []
        for k in (192, 1024):  # where the last turn of a kernel's loop is cut short, and where not
            weight, dense = make.weight(48, k)
            x, wide = make.leaf(rows, k)
            ours = kernels.linear_4bit(x, weight, batch_invariant=invariant)
            pairs += _both(ours, wide @ dense.T, [(x, wide)]).pairs
        return Result(pairs)

    return check


def _lora(rows: int) -> Callable[[_Maker], Result]:
    def check(make: _Maker) -> Result:
        weight, dense = make.weight(48, 128)
        leaves = [make.leaf(rows, 128), make.leaf(8, 128), make.leaf(48, 8)]
        (x, xd), (a, ad), (b, bd) = leaves
        ours = kernels.lora_linear_4bit(x, weight, kernels.Lora(a, b, 0.5))
        return _both(ours, xd @ dense.T + 0.5 * (xd @ ad.T) @ bd.T, leaves)

    return check


def _rms_norm(make: _Maker) -> Result:
    leaves = [make.leaf(5, 100), make.leaf(100)]
    (x, xd), (w, wd) = leaves
    exact = xd * torch.rsqrt(xd.pow(2).mean(-1, keepdim=True) + 1e-6) * wd
    return _both(kernels.rms_norm(x, w), exact, leaves)


def _add_rms_norm(make: _Maker) -> Result:
    leaves = [make.leaf(5, 100), make.leaf(5, 100), make.leaf(100)]
    (x, xd), (r, rd), (w, wd) = leaves
    total = xd + rd
    exact = total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6) * wd + total
    y, ours = kernels.add_rms_norm(x, r, w)
    return _both(y + ours, exact, leaves)


def _layer_norm(make: _Maker) -> Result:
    leaves = [make.leaf(5, 100), make.leaf(100), make.leaf(100)]
    (x, xd), (w, wd), (b, bd) = leaves
    exact = functional.layer_norm(xd, (100,), wd, bd, 1e-5)
    return _both(kernels.layer_norm(x, w, b, 1e-5), exact, leaves)


def _rope(table: torch.dtype | None = None) -> Callable[[_Maker], Result]:
    def check(make: _Maker) -> Result:
        leaves = [make.leaf(2, 4, 3, 24), make.leaf(2, 2, 3, 24)]
        (q, qd), (k, kd) = leaves
        angle = torch.linspace(0, 3, 48, device=make.device, dtype=torch.float64).view(1, 3, 16)
        cos, sin = (one.to(table or make.dtype) for one in (angle.cos(), angle.sin()))
        exact = [reference_rope(one, cos.double(), sin.double()) for one in (qd, kd)]
        ours = kernels.apply_rope(q, k, cos, sin)
        return _both(torch.cat(ours, dim=1), torch.cat(exact, dim=1), leaves)

    return check


def _swiglu(make: _Maker) -> Result:
    leaves = [make.leaf(5, 100), make.leaf(5, 100)]
    (g, gd), (u, ud) = leaves
    return _both(kernels.swiglu(g, u), functional.silu(gd) * ud, leaves)


def _geglu(make: _Maker) -> Result:
    leaves = [make.leaf(5, 100), make.leaf(5, 100)]
    (g, gd), (u, ud) = leaves
    exact = functional.gelu(gd, approximate="tanh") * ud
    return _both(kernels.geglu(g, u), exact, leaves)


def _labels(make: _Maker, tokens: int, vocabulary: int) -> torch.Tensor:
    labels = torch.arange(tokens, device=make.device) * 7 % vocabulary
    labels[1] = -100
    return labels


def _cross_entropy(make: _Maker) -> Result:
    logits, wide = make.leaf(6, 300)
    labels = _labels(make, 6, 300)
    ours = kernels.cross_entropy(logits, labels)
    return _both(ours, functional.cross_entropy(wide, labels), [(logits, wide)])


def _fused_loss(make: _Maker) -> Result:
    leaves = [make.leaf(6, 32), make.leaf(300, 32)]
    (h, hd), (w, wd) = leaves
    labels = _labels(make, 6, 300)
    ours = kernels.fused_linear_cross_entropy(h, w, labels)
    return _both(ours, functional.cross_entropy(hd @ wd.T, labels), leaves)


_CHECKS: dict[str, Callable[[_Maker], Result]] = {
    "quantize_4bit": _quantize,
    "dequantize_4bit": _dequantize,
    "linear_4bit, 1 row": _linear(1),
    "linear_4bit, 7 rows": _linear(7),
    "linear_4bit, 12 rows": _linear(12),
    "linear_4bit, 20 rows": _linear(20),
    "linear_4bit, 40 rows": _linear(40),
    "linear_4bit, 100 rows": _linear(100),
    "linear_4bit, batch-invariant": _linear(20, invariant=True),
    "lora_4bit, 5 rows": _lora(5),
    "lora_4bit, 100 rows": _lora(100),
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "layer_norm": _layer_norm,
    "rope": _rope(),
    "rope, float32 tables": _rope(torch.float32),
    "swiglu": _swiglu,
    "geglu": _geglu,
    "cross_entropy": _cross_entropy,
    "fused_linear_cross_entropy": _fused_loss,
}


def failures(checks: list[Check]) -> Iterator[str]:
    """The operations that are wrong, in words."""
    for one in checks:
        if not one.ok:
            yield f"{one.operation} in {one.dtype}: {one.error:.2g}, {one.limit:.2g} allowed"


def main() -> None:
    """Check the backend of this process and print JSON."""
    gpu = torch.cuda.is_available() and not interpreting()
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    checks = run_checks(device, (torch.float32, torch.float16, torch.bfloat16))
    print(json.dumps({"backend": backend(device), "checks": [asdict(one) for one in checks]}))


if __name__ == "__main__":
    main()
