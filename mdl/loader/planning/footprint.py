"""The bytes a model's weights will take, from its configuration alone.

The model is built on the meta device, so the numbers come from the very modules a load would fill,
and transformers' own quantizers decide which of them are packed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mdl.loader.build import (
    model_class,
    model_config,
    nothing_to_quantize,
    quantization_on_load,
    why_dequantized,
)
from mdl.loader.checkpoint import Checkpoint
from mdl.loader.planning.memory import quantized_bytes
from mdl.loader.request import Quantization

FP8_BLOCK = 128  # side of the square of weights that share one float32 scale


@dataclass(frozen=True)
class Footprint:
    """A model's parameters, the bytes of its weights and buffers, and their size in 4 bits.

    `in_4bit` is None if the weights are already quantized, or the request quantizes them.
    `dequantized` is why stored weights become floats, empty if they do not.
    """

    parameters: int
    weights: int
    in_4bit: int | None
    dequantized: str = ""


def footprint(checkpoint: Checkpoint) -> Footprint:
    """Count what a load of `checkpoint` would allocate, tied weights once.

    Raises:
        LoadError: transformers cannot build the configuration, or no layer can be quantized.
        UsageError: the checkpoint is already quantized differently.
    """
    model = empty_model(checkpoint)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    on_load = quantization_on_load(checkpoint)
    settings = on_load or checkpoint.quantization
    if settings is None:
        four = checkpoint.request.quantization.to_config("bfloat16")
        return Footprint(parameters, _bytes(model, None, None), _bytes(model, four, _nf4))
    if on_load is not None or checkpoint.is_bnb_4bit:
        packed = _bytes(model, settings, _packing(settings))
        if on_load is not None and packed == _bytes(model, None, None):
            raise nothing_to_quantize(model, wants_4bit=checkpoint.request.wants_4bit)
        return Footprint(parameters, packed, None)
    if reason := why_dequantized(checkpoint):
        return Footprint(parameters, _bytes(model, None, None), None, reason)
    return Footprint(parameters, checkpoint.weight_bytes, None)


def empty_model(checkpoint: Checkpoint) -> Any:
    """The model on the meta device, unquantized.

    Raises:
        LoadError: transformers cannot build the configuration.
    """
    import torch

    kind, saved_from = model_class(checkpoint)
    config = model_config(checkpoint)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, checkpoint.dtype))
    try:
        with torch.device("meta"):
            return kind(config) if saved_from else kind.from_config(config)  # type: ignore[attr-defined] # an auto class
    finally:
        torch.set_default_dtype(before)


def _bytes(model: Any, quantization: Any, packing: Callable[[Any], int] | None) -> int:
    """Bytes of all parameters and buffers, tied ones once, packed ones packed."""
    packed = frozenset(_packed_names(model, quantization)) if packing else frozenset()
    total = 0
    for name, parameter in model.named_parameters():
        if packing is not None and name in packed:
            total += packing(parameter)
        else:
            total += parameter.numel() * parameter.element_size()
    for buffer in model.buffers():
        total += buffer.numel() * buffer.element_size()
    return total


def _packed_names(model: Any, quantization: Any) -> list[str]:
    """The weights that transformers' quantizer would pack."""
    import torch
    from transformers.quantizers import AutoHfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    if isinstance(quantization, Mapping):
        quantization = AutoHfQuantizer.merge_quantization_configs(dict(quantization), None)
    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
    requested = getattr(quantization, "llm_int8_skip_modules", None) or getattr(
        quantization, "modules_to_not_convert", None
    )
    skipped = quantizer.get_modules_to_not_convert(
        model, requested, getattr(model, "_keep_in_fp32_modules", None)
    )
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and should_convert_module(name, skipped)
    ]


def _packing(quantization: Any) -> Callable[[Any], int]:
    """A function from a weight matrix to its packed size in bytes."""
    table = quantization if isinstance(quantization, Mapping) else quantization.to_dict()
    if table.get("load_in_8bit"):
        return _int8
    if not table.get("load_in_4bit"):
        return _fp8
    double = bool(table.get("bnb_4bit_use_double_quant"))
    return lambda weight: quantized_bytes(weight.numel(), double_quant=double)


def _nf4(weight: Any) -> int:
    return quantized_bytes(weight.numel(), double_quant=Quantization().double_quant)


def _int8(weight: Any) -> int:
    """One byte per weight and a float32 scale per row (LLM.int8(), arXiv:2208.07339)."""
    return int(weight.numel() + 4 * weight.shape[0])


def _fp8(weight: Any) -> int:
    """One byte per weight and a float32 scale per block of 128 x 128."""
    rows, columns = (math.ceil(side / FP8_BLOCK) for side in weight.shape)
    return int(weight.numel() + 4 * rows * columns)
