"""The libraries that are measured beside ours, where they are installed."""

import importlib
import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import torch

_PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "liger-kernel", "numpy")


def optional(module: str) -> Any:
    """A module, or None if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` of a function, compiled at its first call."""
    made: Callable[..., Any] = torch.compile(function)
    return made


def versions() -> dict[str, str]:
    """Installed versions of everything measured, and of Python."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe(device: torch.device) -> dict[str, Any]:
    """The device as the report names it."""
    if device.type != "cuda":
        return {"name": platform.processor() or platform.machine(), "type": device.type}
    found = torch.cuda.get_device_properties(device)
    return {
        "name": found.name,
        "type": "cuda",
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "cuda": torch.version.cuda,
    }
