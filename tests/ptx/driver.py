"""A driver for Triton whose GPU is `machine.Machine`, and mdl's kernels sent to it.

`install(90)` makes Triton compile for sm_90 and every launch on CPU tensors run the compiled PTX,
arguments' alignment and all the specialisation of a real launch included.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from mdl.kernels.compiled.compile import SHARED
from mdl.kernels.runtime import launch
from mdl.kernels.runtime import launch_configs as tune
from tests.ptx.machine import Counts, Machine
from tests.ptx.memory import Global
from tests.ptx.parse import Program, parse

_THREADS_AT_ONCE = 16384


class Driver(DriverBase):
    """The parts of `triton.backends.nvidia.driver.CudaDriver` that a launch meets.

    Two methods that Triton's abstract class demands no launch calls; they say so.
    """

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.utils = self
        self.counts: Counts | None = None
        self.launched: dict[str, int] = {}
        self.edit: Callable[[Program], Program] | None = None
        self._loading: Program | None = None
        triton.knobs.runtime.kernel_load_start_hook.add(self._before_load)

    @classmethod
    def is_active(cls) -> bool:
        return True

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
        return {"max_shared_mem": SHARED[self.capability] * 1024}

    def _before_load(self, module: Any, function: Any, name: str, files: Any, hash: str) -> None:
        path = next(Path(path) for part, path in files.items() if part.endswith(".ptx"))
        self._loading = parse(path.read_text())

    def load_binary(self, *args: Any) -> tuple[str, Program | None, int, int, int]:
        return "", self._loading, 0, 0, 1024

    def unload_module(self, module: Any) -> None:
        pass

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        """What a compiled kernel calls to start itself."""
        taken = [kind != "constexpr" for kind in src.signature.values()]
        kinds = [kind for kind in src.signature.values() if kind != "constexpr"]

        def start(
            x: int, y: int, z: int, stream: int, program: Program, packed: Any, meta: Any,
            enter: Any, leave: Any, *args: Any,
        ) -> None:  # fmt: skip
            given = list(itertools.compress(args, taken))
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
        every = np.array(list(itertools.product(*map(range, grid[::-1]))), np.int64)[:, ::-1]
        at_once = max(1, _THREADS_AT_ONCE // program.threads)
        for first in range(0, len(every), at_once):
            blocks = np.ascontiguousarray(every[first : first + at_once])
            memory = Global(spans)
            Machine(program, blocks, grid, arguments, memory, shared, self.counts).run()


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """[first, one past the last) byte that a tensor's elements lie in."""
    if not tensor.numel():
        return tensor.data_ptr(), tensor.data_ptr()
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def bits(value: Any, kind: str) -> int:
    """An argument as the integer whose low bytes the kernel's parameter holds."""
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    if kind.startswith("fp"):
        width = int(kind[2:])
        return int(np.array(value, f"f{width // 8}").view(f"u{width // 8}"))
    return int(value)


@contextmanager
def counting(driver: Driver) -> Iterator[Counts]:
    """Count what the launches inside do."""
    driver.counts = counts = Counts()
    try:
        yield counts
    finally:
        driver.counts = None


def install(capability: int, *, whole_tiles: bool = True) -> Driver:
    """Send mdl's kernels to an emulated GPU, for the rest of this process.

    Args:
        whole_tiles: programs as large as for a wide weight, however few that leaves.
    """
    driver = Driver(capability)
    triton.runtime.driver.set_active(driver)
    table = {operation: tune.config_for(operation, capability // 10) for operation in tune.TABLE}
    if whole_tiles:
        table = {
            operation: replace(one, meta={**one.meta, "PROGRAMS": 0}) if "BN" in one.meta else one
            for operation, one in table.items()
        }
    ours = {
        launch.on_triton: lambda tensor: tensor.dtype != torch.float64,
        launch.config: lambda operation, tensor: table[operation],
    }
    for module in [module for name, module in sys.modules.items() if name.startswith("mdl.")]:
        for function, replaced in ours.items():
            if getattr(module, function.__name__, None) is function:
                setattr(module, function.__name__, replaced)
    return driver
