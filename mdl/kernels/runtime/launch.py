"""Where an operation runs, and how a kernel is started.

An operation has three forms. This module chooses between two of them by the tensor it is given:
the Triton kernel on an NVIDIA GPU of compute capability 8.0 or newer (or on the CPU while
`TRITON_INTERPRET=1`), the torch reference everywhere else. The third, the autograd function, calls
whichever was chosen.
"""

import contextlib
import functools
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from mdl.kernels.runtime.launch_configs import INTERPRETER, Config, config_for

OLDEST_CAPABILITY = (8, 0)


def interpreting() -> bool:
    """Whether Triton runs its kernels in Python on CPU tensors (`TRITON_INTERPRET=1`)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def has_triton() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def capability(index: int) -> tuple[int, int]:
    """The compute capability of CUDA device `index`."""
    return torch.cuda.get_device_capability(index)


def on_triton(tensor: torch.Tensor) -> bool:
    """Whether work on `tensor` goes to the Triton kernel rather than to the torch reference.

    The kernels compute in float32, so float64 stays with the references.
    """
    if tensor.dtype == torch.float64:
        return False
    if tensor.is_cuda:
        return (
            has_triton()
            and torch.version.hip is None
            and capability(tensor.device.index) >= OLDEST_CAPABILITY
        )
    return tensor.device.type == "cpu" and interpreting() and has_triton()


def config(operation: str, tensor: torch.Tensor) -> Config:
    """The launch configuration of `operation` for the device that holds `tensor`."""
    if not tensor.is_cuda:
        return config_for(operation, INTERPRETER)
    return config_for(operation, capability(tensor.device.index)[0])


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype a kernel stores for a result of `dtype`.

    Triton's interpreter truncates float32 to bfloat16 instead of rounding, so there the kernel
    stores float32 and the launcher casts in torch.
    """
    return torch.float32 if interpreting() and dtype == torch.bfloat16 else dtype


def launch_kernel(
    kernel: Any, grid: Sequence[int], config: Config, *args: Any, **constants: Any
) -> None:
    """Start `kernel` on the current stream of the device of its first tensor.

    Floating-point contraction is always off: Triton 3.9 fuses by default and 3.10 does not, and a
    fused multiply-add changes 7 % of NF4's second-level scales.
    """
    first = next(arg for arg in args if isinstance(arg, torch.Tensor))
    with _device_of(first):
        kernel[tuple(grid)](
            *args,
            **constants,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            enable_fp_fusion=False,
        )


def _device_of(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    # Without a guard Triton launches on the current device, whatever device the tensor is on.
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)


def custom_op(
    name: str,
    fake: Callable[..., Any],
    *,
    mutates: Sequence[str] = (),
    schema: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the custom operator `mdl::<name>`, and return what to call.

    While torch.compile traces, the call is the operator, opaque with `fake` as its shape rule;
    otherwise it is the plain function, which saves the dispatcher's time in every decoded token.

    Args:
        fake: same arguments as the function, returns empty tensors of the right shape and dtype.
        mutates: names of arguments the function writes.
        schema: the operator's, where it does not follow from the function's signature.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        operator: Any = torch.library.custom_op(
            f"mdl::{name}", function, mutates_args=tuple(mutates), schema=schema
        )
        operator.register_fake(fake)

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            if torch.compiler.is_compiling():
                return operator(*args)
            return function(*args)

        return call

    return register


class Scratch:
    """Buffers that are reused instead of allocated, one per device, stream, thread and dtype.

    A buffer grows and never shrinks. Two uses in one stream follow each other, so the second may
    overwrite the first; while a CUDA graph is captured, memory must belong to the graph, and a
    fresh tensor is returned.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], torch.Tensor] = {}

    def take(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """An uninitialised contiguous tensor, valid until the next `take` of the same key."""
        count = 1
        for size in shape:
            count *= size
        stream = 0
        if device.type == "cuda":
            if torch.cuda.is_current_stream_capturing():
                return torch.empty(shape, dtype=dtype, device=device)
            stream = torch.cuda.current_stream(device).cuda_stream
        key = (device, stream, threading.get_ident(), dtype)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < count:
            buffer = torch.empty(count, dtype=dtype, device=device)
            self._buffers[key] = buffer
        return buffer[:count].view(*shape)

    def clear(self) -> None:
        """Give the memory back."""
        self._buffers.clear()


scratch = Scratch()
