"""What a model in memory holds: parameters, bytes, devices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelStats:
    """What one pass over a model found.

    `parameters` counts them as they would be unquantized, tied ones once, under `total`,
    `trainable` and `quantized`. `bytes` are those of parameters and buffers once, with the
    statistics of 4-bit weights.
    """

    parameters: Mapping[str, int]
    bytes: int
    devices: tuple[str, ...]


def measure_model(model: Any) -> ModelStats:
    """Count what a model holds."""
    import torch

    narrow = (torch.int8, torch.float8_e4m3fn)  # bitsandbytes' 8-bit weights, and fp8
    total = trainable = quantized = 0
    held: dict[tuple[str, int], int] = {}
    devices: dict[Any, str] = {}  # a device's text takes longer than all else of a parameter

    def count(tensor: Any) -> None:
        if tensor is not None:
            device = tensor.device
            if device not in devices:
                devices[device] = str(device)
            held[(devices[device], tensor.data_ptr())] = tensor.nbytes

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
    on = tuple(sorted(devices.values()))
    for buffer in model.buffers():
        count(buffer)
    counts = {"total": total, "trainable": trainable, "quantized": quantized}
    return ModelStats(counts, sum(held.values()), on)
