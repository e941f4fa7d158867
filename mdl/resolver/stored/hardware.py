"""What this machine can run: its GPU's capability, its memory, its platform. Imports no torch."""

import ctypes
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class Hardware(NamedTuple):
    """A machine. `capability` is the first CUDA GPU's, `None` without one; memory is in bytes."""

    system: str  # Linux, Darwin, Windows
    machine: str
    capability: tuple[int, int] | None = None
    gpu_memory: int | None = None
    memory: int | None = None

    @property
    def is_apple(self) -> bool:
        return self.system == "Darwin" and self.machine == "arm64"

    @property
    def text(self) -> str:
        if self.capability is not None:
            return f"a CUDA GPU of capability {self.capability[0]}.{self.capability[1]}"
        return "Apple silicon" if self.is_apple else "a machine without a CUDA GPU"

    @property
    def room(self) -> int | None:
        """Bytes that a model may take: the GPU's memory, else what the machine has available."""
        return self.gpu_memory if self.gpu_memory is not None else self.memory


def this_machine() -> Hardware:
    """Ask the CUDA driver and the operating system."""
    capability, gpu_memory = _cuda()
    return Hardware(platform.system(), platform.machine(), capability, gpu_memory, _available())


def _cuda() -> tuple[tuple[int, int] | None, int | None]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return None, None
    try:
        driver: Any = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        count, device, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        memory = ctypes.c_size_t()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
            return None, None
        driver.cuDeviceGet(ctypes.byref(device), 0)
        numbers = []
        for attribute in (_MAJOR, _MINOR):
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            numbers.append(value.value)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        return (numbers[0], numbers[1]), memory.value
    except (OSError, AttributeError):
        return None, None


def _available() -> int | None:
    try:
        with Path("/proc/meminfo").open() as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
