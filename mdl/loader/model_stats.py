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


def measure_model(model: Any) -> ModelStats:
    """Count a model's parameters and bytes in one pass."""
    import torch

    narrow = (torch.int8, torch.float8_e4m3fn)  # bitsandbytes' 8-bit weights, and fp8
    total = trainable = quantized = 0
    sizes: dict[tuple[str, int], int] = {}
    devices: dict[Any, str] = {}  # str(device) takes longer than all the rest of a parameter

    def count(tensor: Any) -> None:
        if tensor is not None:
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
    counts = {"total": total, "trainable": trainable, "quantized": quantized}
    return ModelStats(counts, sum(sizes.values()), names)
