"""Run a kernel, or torch's reference of it where the kernel cannot run or has failed before.

A training run must not die of a kernel of ours: out of resources at a shape nobody tried, a
compiler that gives up. The failed kernel is left out for the rest of the process, with one warning.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from mdl.errors import MdlError
from mdl.kernels.runtime.launch import on_triton

log = logging.getLogger("mdl.kernels")
Made = TypeVar("Made")

_FAILED: dict[str, str] = {}
_raising = False


def kernel_or_reference(
    kernel: str,
    tensor: torch.Tensor,
    launch: Callable[..., Made],
    reference: Callable[..., Made],
    *args: Any,
) -> Made:
    """`launch(*args)` where work on `tensor` goes to Triton, else `reference(*args)`.

    Both must save and return tensors of the same shapes and dtypes: a checkpointed forward may be
    computed by one and its recomputation by the other.

    Args:
        kernel: what the warning calls it, and what is left out after a failure.
    """
    if not tensor.numel() or not on_triton(tensor) or (kernel in _FAILED and not _raising):
        return reference(*args)
    try:
        return launch(*args)
    except Exception as error:
        if _raising or not recoverable(error, _device_works(tensor)):
            raise
        _leave_out(kernel, error)
    return reference(*args)


def recoverable(error: Exception, device_works: bool) -> bool:
    """Whether torch can compute what a failed launch could not.

    Not where the arguments were refused, where memory ran out (the reference needs more), or after
    an error that ends every later call too, such as a driver reset.
    """
    return device_works and not isinstance(error, MdlError | torch.OutOfMemoryError)


def _device_works(tensor: torch.Tensor) -> bool:
    if not tensor.is_cuda:
        return False  # in Triton's interpreter an error is a bug to look at
    if torch.cuda.is_current_stream_capturing():
        return True  # waiting is not allowed here; a dead device ends the capture
    try:
        torch.cuda.synchronize(tensor.device)
    except Exception:
        return False
    return True


def _leave_out(kernel: str, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    if _FAILED.setdefault(kernel, reason) is reason:
        log.warning(
            "The kernel %s failed (%s). It is left out until this process ends; torch computes "
            "the same, slower. kernels=False leaves all kernels out.", kernel, reason,
        )  # fmt: skip


def failed_kernels() -> dict[str, str]:
    """The kernels that failed in this process and were replaced by torch, with their errors."""
    return dict(_FAILED)


@contextlib.contextmanager
def raising_failures() -> Iterator[None]:
    """Let every kernel run, and its failure be an error: a check of the reference proves nothing.

    For the whole process, because the backward pass runs in threads of its own.
    """
    global _raising
    before, _raising = _raising, True
    try:
        yield
    finally:
        _raising = before
