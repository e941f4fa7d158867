"""A loaded model's parameters, bytes and devices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelStats:
    """Sizes of a model in memory.

    `parameters` are counts as they would be unquantized, tied ones once: `total`, `trainable` and
    `quantized`. `bytes` adds up parameters, buffers and the statistics of 4-bit weights.
    """

    parameters: Mapping[str, int]
    bytes: int
    devices: tuple[str, ...]


def measure_model(model: Any, unquantized: Any = None) -> ModelStats:
    """Count a model's parameters and bytes in one pass.

    Args:
        unquantized: the same model on the meta device, to count the parameters of packed weights
            other than bitsandbytes' by.
    """
    import torch

    narrow = (torch.int8, torch.float8_e4m3fn)  # bitsandbytes' 8-bit weights, and fp8
    total = trainable = quantized = 0
    sizes: dict[tuple[str, int], int] = {}
    devices: dict[Any, str] = {}  # str(device) takes longer than all the rest of a parameter

    def count(tensor: Any) -> None:
        if _is_shell(tensor):
            for name in tensor.__tensor_flatten__()[0]:
                count(getattr(tensor, name))
        elif tensor is not None:
            device = tensor.device
            if device not in devices:
                devices[device] = str(device)
            sizes[(devices[device], tensor.data_ptr())] = tensor.nbytes

    for parameter in model.parameters():
        count(parameter)
        state = getattr(parameter, "quant_state", None)
        packed = state is not None or parameter.dtype in narrow
        size = parameter.numel() if state is None else state.shape.numel()
        total += size
        trainable += size if parameter.requires_grad else 0
        quantized += size if packed else 0
        if state is not None:
            for part in (state, getattr(state, "state2", None)):
                if part is not None:
                    count(part.absmax)
                    count(part.code)
    names = tuple(sorted(devices.values()))
    for buffer in model.buffers():
        count(buffer)
    if unquantized is not None:
        total, quantized = _count_packed(model, unquantized)
    counts = {"total": total, "trainable": trainable, "quantized": quantized}
    return ModelStats(counts, sum(sizes.values()), names)


def _is_shell(tensor: Any) -> bool:
    """Whether it is one of torchao's, which hold other tensors and have no bytes of their own."""
    return type(tensor).__module__.startswith("torchao.")


def _count_packed(model: Any, unquantized: Any) -> tuple[int, int]:
    """All parameters, and those that are not the floats they are in the unquantized model."""
    here, total, floats = dict(model.named_parameters()), 0, 0
    for name, parameter in unquantized.named_parameters():
        total += parameter.numel()
        same = here.get(name)
        if same is not None and same.dtype == parameter.dtype and same.shape == parameter.shape:
            floats += 0 if _is_shell(same) else parameter.numel()
    return total, total - floats
