"""A Triton driver whose GPU is `machine.Machine`: launches on CPU tensors run the compiled PTX."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from ptx_emulator.machine import Counts, Machine
from ptx_emulator.memory import Global
from ptx_emulator.parse import Program, parse

_SHARED_KIB = {80: 99, 90: 227, 100: 227, 120: 99}  # 8.6 and 8.9 have less than 8.0's 163
_THREADS_AT_ONCE = 16384


class Driver(DriverBase):
    """The parts of `triton.backends.nvidia.driver.CudaDriver` that a launch uses.

    Attributes:
        launched: number of launches by kernel name.
        edit: applied to each program before it runs, to break it on purpose.
    """

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.utils = self
        self.counts: Counts | None = None
        self.launched: dict[str, int] = {}
        self.edit: Callable[[Program], Program] | None = None
        self._loading: Program | None = None
        triton.knobs.runtime.kernel_load_start_hook.add(self._before_load)
        triton.knobs.runtime.add_stages_inspection_hook = _skip_assembler

    @classmethod
    def is_active(cls) -> bool:
        return True

    # Triton's abstract class requires these two; no launch calls them.
    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError

    def get_benchmarker(self) -> Any:
        raise NotImplementedError

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": _SHARED_KIB[self.capability] * 1024}

    def _before_load(self, module: Any, function: Any, name: str, files: Any, hash: str) -> None:
        path = next(Path(path) for part, path in files.items() if part.endswith(".ptx"))
        self._loading = parse(path.read_text())

    def load_binary(self, *args: Any) -> tuple[str, Program | None, int, int, int]:
        return "", self._loading, 0, 0, 1024

    def unload_module(self, module: Any) -> None:
        pass

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        """What a compiled kernel calls to start itself."""
        is_argument = [kind != "constexpr" for kind in src.signature.values()]
        kinds = [kind for kind in src.signature.values() if kind != "constexpr"]

        def start(
            x: int, y: int, z: int, stream: int, program: Program, packed: Any, meta: Any,
            enter: Any, leave: Any, *args: Any,
        ) -> None:  # fmt: skip
            given = list(itertools.compress(args, is_argument))
            self._run(program, (x, y, z), given, kinds, int(metadata.shared))

        return start

    def _run(
        self,
        program: Program,
        grid: tuple[int, int, int],
        given: list[Any],
        kinds: list[str],
        shared: int,
    ) -> None:
        self.launched[program.name] = self.launched.get(program.name, 0) + 1
        program = self.edit(program) if self.edit else program
        spans = [span(value) for value in given if isinstance(value, torch.Tensor)]
        values = [bits(value, kind) for value, kind in zip(given, kinds, strict=True)]
        unused = len(program.parameters) - len(values)  # Triton's two scratch pointers
        arguments = dict(zip(program.parameters, [*values, *[0] * unused], strict=True))
        blocks = np.array(list(itertools.product(*map(range, grid[::-1]))), np.int64)[:, ::-1]
        at_once = max(1, _THREADS_AT_ONCE // program.threads)
        for first in range(0, len(blocks), at_once):
            some = np.ascontiguousarray(blocks[first : first + at_once])
            Machine(program, some, grid, arguments, Global(spans), shared, self.counts).run()


def _skip_assembler(*compilation: Any) -> tuple[str, str]:
    """Triton's hook on its compilation stages; without arguments it asks for a cache key."""
    if compilation:
        _, stages, *_ = compilation
        stages["cubin"] = lambda ptx, metadata: b""
    return "PTX only", "PTX only"


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """[first, one past the last) byte of a tensor's elements."""
    if not tensor.numel():
        return tensor.data_ptr(), tensor.data_ptr()
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def bits(value: Any, kind: str) -> int:
    """An argument as the integer whose low bytes are the kernel's parameter."""
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    if kind.startswith("fp"):
        width = int(kind[2:])
        return int(np.array(value, f"f{width // 8}").view(f"u{width // 8}"))
    return int(value)


@contextmanager
def counting(driver: Driver) -> Iterator[Counts]:
    """Count the memory traffic of the launches inside."""
    driver.counts = counts = Counts()
    try:
        yield counts
    finally:
        driver.counts = None
