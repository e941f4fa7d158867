"""Switching a model between training and inference."""

from collections.abc import Iterator
from typing import Any

SCALES = ("offset", "state2")  # of doubly quantized scales, besides `absmax`


def for_training(model: Any, use_gradient_checkpointing: bool | str | None = True) -> Any:
    """Training mode: dropout on, KV cache off, checkpointing as requested. Returns the model."""
    model.train()
    model.config.use_cache = False
    if use_gradient_checkpointing and getattr(model, "supports_gradient_checkpointing", True):
        _checkpointing(model, "enable")({"use_reentrant": False})
        model.enable_input_require_grads()
    remember_scales(model)
    if not getattr(model, "mdl_trains_as_stored", False):
        model.register_forward_pre_hook(_as_stored)
        model.mdl_trains_as_stored = True
    return model


def for_inference(model: Any) -> Any:
    """Inference mode: dropout and checkpointing off, KV cache on. Returns the model."""
    model.eval()
    model.config.use_cache = True
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        _checkpointing(model, "disable")()
    return model


def remember_scales(model: Any) -> None:
    """Keep the scales of 4-bit weights on a CPU, so that `restore_packing` is exact."""
    for _, weight in _packed_weights(model):
        state = weight.quant_state
        if weight.device.type == "cpu" and not getattr(state, "packing_format_for_cpu", False):
            state.mdl_scales = {name: getattr(state, name) for name in SCALES if state.nested}
            state.mdl_scales["absmax"] = state.absmax


def restore_packing(model: Any) -> None:
    """Give 4-bit weights that bitsandbytes repacked for inference on a CPU their stored layout.

    On CPUs with AVX512-BF16 its first forward pass in eval mode repacks weights in place and rounds
    their scales to bfloat16. Its backward pass reads them as if it had not, so that gradients would
    be wrong by orders of magnitude.
    """
    for module, weight in _packed_weights(model):
        if getattr(weight.quant_state, "packing_format_for_cpu", False):
            from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

            weight.data, state = _convert_weight_packed_for_cpu_inverse(
                weight.data, weight.quant_state
            )
            for name, value in getattr(state, "mdl_scales", {}).items():
                setattr(state, name, value)
            module.quant_state = weight.quant_state = state


def _as_stored(model: Any, inputs: Any) -> None:
    """Before a training step: restore what a forward pass in eval mode repacked."""
    if model.training:
        restore_packing(model)


def _packed_weights(model: Any) -> Iterator[tuple[Any, Any]]:
    """Modules with 4-bit weights, and these weights."""
    for module in model.modules():
        weight = module._parameters.get("weight")
        if getattr(weight, "quant_state", None) is not None:
            yield module, weight


def _checkpointing(model: Any, what: str) -> Any:
    """transformers' method to enable or disable it, whose name depends on the version."""
    newer = getattr(model, f"activation_checkpointing_{what}", None)
    return newer or getattr(model, f"gradient_checkpointing_{what}")
