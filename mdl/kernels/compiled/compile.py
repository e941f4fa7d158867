"""Compile kernels ahead of time, for GPUs that are not here, and read what they cost.

Triton compiles for any target without a device; the `cuobjdump` it ships prints registers, stack
and local memory of the result, and its machine code (SASS). A spill or a bloated inner loop is
found this way on a machine without a GPU.
"""

import functools
import importlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mdl.errors import NotFoundError, VerificationError
from mdl.kernels.runtime import Config

CAPABILITIES = (80, 90, 100, 120)
BUDGETED = (3, 9)
"""The Triton the instruction budgets were set with; older ones issue a few more, and may spill a
register or two."""
_SPILL_OF_OLDER = 16
SHARED = {80: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory a program may have; a table entry for 8.0 serves 8.6 and 8.9 too, which
have less than the 163 of 8.0 (CUDA C++ Programming Guide, technical specifications)."""


@dataclass(frozen=True)
class Variant:
    """One kernel in one configuration.

    Args:
        kernel: `module:function` of the `@triton.jit` function.
        types: Triton type of each run-time argument, in order: `*bf16`, `i32`, `fp32`.
        constants: the `tl.constexpr` arguments.
        unaligned: arguments that may not be divisible by 16; all pointers and sizes else are.
        elements: of a 4-bit weight that one program (or one turn of its loop) decodes, or
            logits that it reads; 0: none.
        max_registers: the most registers a thread may have.
    """

    operation: str
    detail: str
    kernel: str
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    config: Config
    unaligned: frozenset[str] = frozenset()
    elements: int = 0
    max_registers: int = 255
    budget: Mapping[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.operation}/{self.detail}" if self.detail else self.operation


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes.

    instructions: static count of SASS lines; counted for kernels that have `elements`, else 0.
    per_element: instructions a thread issues for each element, in the loop where there is
    one, in the whole kernel otherwise; 0 when it has none.
    """

    variant: str
    capability: int
    registers: int
    stack: int
    local: int
    shared: int
    instructions: int
    per_element: float
    problems: tuple[str, ...]


def compiler_pool() -> ProcessPoolExecutor:
    """A process per core to compile in, for `compile_jobs`.

    Not threads: in CPython 3.11 two threads in `ast.parse` can fail with "AST constructor recursion
    depth mismatch", and Triton's compiler holds the interpreter's lock. The processes are spawned,
    because a fork of a process with threads may deadlock.
    """
    return ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))


def compile_jobs(pool: ProcessPoolExecutor, jobs: Iterable[tuple[Variant, int]]) -> list[Resources]:
    """`compile_variant` of every (variant, capability), in order.

    Raises:
        VerificationError: a kernel does not compile for its target.
    """
    return list(pool.map(compile_variant, *zip(*jobs, strict=True)))


def compile_variant(variant: Variant, capability: int) -> Resources:
    """Compile for `sm_<capability>` and read the resources.

    Raises:
        VerificationError: the kernel does not compile for this target.
    """
    cubin, shared = _cubin(variant, capability)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        sass = _cuobjdump("-sass", file.name) if variant.elements else ""
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if found is None:
        raise VerificationError(
            f"cuobjdump says nothing about {variant.name}.",
            why=usage.strip()[:200],
            next="Report it with the versions of Triton and of the CUDA tools.",
        )
    registers, stack, local = (int(value) for value in found.groups())
    total, loop = count_instructions(sass)
    per_thread = variant.elements / (32 * variant.config.num_warps)
    per_element = (loop or total) / per_thread if variant.elements else 0.0
    return Resources(
        variant.name,
        capability,
        registers,
        stack,
        local,
        shared,
        total,
        round(per_element, 2),
        tuple(_problems(variant, capability, registers, stack + local, shared, per_element)),
    )


def _problems(
    variant: Variant,
    capability: int,
    registers: int,
    spilled: int,
    shared: int,
    per_element: float,
) -> Iterable[str]:
    current = is_budgeted()
    if spilled > (0 if current else _SPILL_OF_OLDER):
        yield f"{spilled} bytes of local memory: registers spill"
    if registers > variant.max_registers:
        yield f"{registers} registers, {variant.max_registers} allowed"
    if shared > SHARED[capability] * 1024:
        yield f"{shared} bytes of shared memory, {SHARED[capability]} KiB allowed"
    budget = variant.budget.get(capability)
    if current and budget is not None and per_element > budget:
        yield f"{per_element:.2f} instructions an element, {budget} allowed"


def _cubin(variant: Variant, capability: int) -> tuple[bytes, int]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, function = variant.kernel.split(":")
    names = [*variant.types, *variant.constants]
    signature = {**variant.types, **dict.fromkeys(variant.constants, "constexpr")}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in variant.types.items()
        if name not in variant.unaligned and (kind.startswith("*") or kind in ("i32", "i64"))
    }
    source = ASTSource(
        fn=getattr(importlib.import_module(module), function),
        signature=signature,
        constexprs=dict(variant.constants),
        attrs=aligned,
    )
    options = {
        "num_warps": variant.config.num_warps,
        "num_stages": variant.config.num_stages,
        "enable_fp_fusion": False,
    }
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:
        raise VerificationError(
            f"{variant.name} does not compile for sm_{capability}.",
            why=str(error)[-500:],
            next="Change its configuration in mdl/kernels/runtime/launch_configs.py.",
        ) from error
    return compiled.asm["cubin"], int(compiled.metadata.shared)


_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", re.MULTILINE)


def count_instructions(sass: str) -> tuple[int, int]:
    """Instructions of a kernel's SASS: all of them, and of its longest loop (0: no loop).

    Trailing padding (NOP, and the branch to itself after EXIT) counts for nothing.
    """
    lines = [(int(address, 16), text) for address, text in _INSTRUCTION.findall(sass)]
    real = [(address, text) for address, text in lines if not text.startswith("NOP")]
    longest = 0
    for address, text in real:
        jump = re.search(r"\bBRA(?:\.\w+)*\s+(?:!?U?P\d,?\s*)*(?:`\(.*?\)|0x([0-9a-f]+))", text)
        if jump is None or jump.group(1) is None:
            continue
        target = int(jump.group(1), 16)
        if target < address:
            inside = sum(1 for other, _ in real if target <= other <= address)
            longest = max(longest, inside)
    return len(real), longest


def is_budgeted() -> bool:
    """Whether the installed Triton is one the budgets were set with, or newer."""
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2]) >= BUDGETED


@functools.cache
def _cuobjdump_path() -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not path.exists():
        raise NotFoundError(
            "The cuobjdump that Triton ships is not there.",
            why=f"No such file: {path}",
            next="Install the official Triton wheel for Linux.",
        )
    return str(path)


def _cuobjdump(option: str, file: str) -> str:
    done = subprocess.run(
        [_cuobjdump_path(), option, file], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise VerificationError(
            "cuobjdump failed.",
            why=done.stderr.strip()[:300],
            next="Reinstall Triton: the tool comes with it.",
        )
    return done.stdout
