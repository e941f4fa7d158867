"""The fast way to build a model on a CPU: empty modules, then the checkpoint's own pages.

The weights are memory-mapped and assigned, never copied; 4-bit weights are taken as stored or
quantized by mdl's own byte-exact quantizer. Whatever this way does not cover goes through
transformers' load, and the report says why. Nobody's module is patched: the empty tensors come
from a `TorchFunctionMode`, which ends with the `with` block and concerns this thread only.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mdl.errors import LoadError
from mdl.loader.build import (
    Built,
    build_with_transformers,
    missing_weights,
    model_class,
    model_config,
    quantization_on_load,
    quiet_transformers,
    refused_as_load_error,
)
from mdl.loader.checkpoint import Checkpoint
from mdl.loader.request import LoadRequest

CPU_MAPS: tuple[Any, ...] = (None, "cpu", "auto", "sequential", "balanced")
_TASK_TABLES = {
    "text": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "vision": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
}


class Unsuited(Exception):
    """The fast way does not cover this checkpoint; the message says why."""


def build(checkpoint: Checkpoint, request: LoadRequest) -> Built:
    """Build the model the fast way where that is known to be exact, else transformers' way.

    Raises:
        LoadError: the checkpoint cannot become the model asked for.
        UsageError: it is quantized in another way than the one asked for.
    """
    try:
        kind = fast_class(checkpoint, request)
        return _build(kind, checkpoint, request)
    except Unsuited as reason:
        return replace(build_with_transformers(checkpoint, request), note=str(reason))


def fast_class(checkpoint: Checkpoint, request: LoadRequest) -> type:
    """The model class to build the fast way.

    Raises:
        Unsuited: the request or the checkpoint needs transformers' own load.
    """
    import torch

    if checkpoint.files.pickled:
        raise Unsuited("pickled weights")
    if request.extra:
        raise Unsuited(f"arguments for transformers: {', '.join(sorted(request.extra))}")
    on_cpu = request.device_map in CPU_MAPS or request.device_map == {"": "cpu"}
    if not on_cpu or (torch.cuda.is_available() and request.device_map != "cpu"):
        raise Unsuited("not on the CPU")
    if request.format in ("8bit", "fp8"):
        raise Unsuited(f"{request.format} goes through transformers")
    if checkpoint.quantization is not None and not checkpoint.is_bnb_4bit:
        raise Unsuited(f"quantized with {checkpoint.quantization.get('quant_method')}")
    if checkpoint.config.get("auto_map") or not (request.dtype or checkpoint.dtype):
        raise Unsuited("remote code" if checkpoint.config.get("auto_map") else "no dtype given")
    named = (checkpoint.config.get("architectures") or [None])[0]
    if request.task == "auto":
        kind, saved_from = model_class(checkpoint, request)
        if not saved_from:
            raise Unsuited("no architecture named in config.json")
        return kind
    import transformers
    from transformers.models.auto import modeling_auto

    table = getattr(modeling_auto, _TASK_TABLES.get(request.task, ""), {})
    if named is None or table.get(checkpoint.config.get("model_type")) != named:
        raise Unsuited(f"task {request.task} changes the class")
    found: type = getattr(transformers, named)
    return found


def _build(kind: Any, checkpoint: Checkpoint, request: LoadRequest) -> Built:
    import torch

    quantizer_config = quantization_on_load(checkpoint, request)
    config = model_config(checkpoint, request)
    dtype = getattr(torch, request.dtype or str(checkpoint.dtype))
    with refused_as_load_error(checkpoint), quiet_transformers():
        quantizer = _quantizer(config, quantizer_config)
        config.dtype = dtype
        config.name_or_path = str(checkpoint.folder)
        model = _empty_model(kind, config, dtype, quantizer)
        tensors = _tensors(checkpoint)
        _check_names(model, tensors)
        _fill(model, tensors, checkpoint, dtype)
        model.tie_weights()
        _check_whole(model, checkpoint)
        model.eval()
        _read_generation_config(model, checkpoint)
        if quantizer is not None:
            model.hf_quantizer = quantizer
            quantizer.postprocess_model(model)
    return Built(model, "mdl", quantized_here=quantizer_config is not None)


def _quantizer(config: Any, on_load: Any) -> Any:
    """transformers' quantizer for the configuration, as its own load makes it; None for floats."""
    from transformers.quantizers import AutoHfQuantizer

    stored = getattr(config, "quantization_config", None)
    if stored is None and on_load is None:
        return None
    if stored is not None:
        config.quantization_config = AutoHfQuantizer.merge_quantization_configs(stored, None)
    else:
        config.quantization_config = on_load
    quantizer = AutoHfQuantizer.from_config(
        config.quantization_config, pre_quantized=stored is not None
    )
    quantizer.validate_environment(device_map={"": "cpu"}, weights_only=True)
    return quantizer


def _empty_model(kind: Any, config: Any, dtype: Any, quantizer: Any) -> Any:
    """The model with its parameters on the meta device and its buffers computed.

    Raises:
        Unsuited: some modules stay in float32, or a buffer would be without a value.
    """
    import torch

    if dtype != torch.float32 and (
        getattr(kind, "_keep_in_fp32_modules", None)
        or getattr(kind, "_keep_in_fp32_modules_strict", None)
    ):
        raise Unsuited("some modules stay in float32")
    with _default_dtype(dtype), _empty_parameters(), _without_init():
        model = kind(config)
        if quantizer is not None:
            quantizer.preprocess_model(
                model=model, dtype=dtype, device_map={"": "cpu"}, checkpoint_files=[],
                use_kernels=False,
            )  # fmt: skip
    if any(buffer.is_meta for buffer in model.buffers()):
        raise Unsuited("it has buffers that only transformers can compute")
    return model


@contextlib.contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _without_init() -> Iterator[None]:
    """Skip the random initialisation of weights that the checkpoint replaces."""
    from transformers import initialization

    with initialization.no_init_weights():
        yield


@contextlib.contextmanager
def _empty_parameters() -> Iterator[None]:
    """`torch.empty` gives meta tensors: modules make their weights with it, not their buffers."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Empty(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if func is torch.empty and kwargs.get("device") is None:
                kwargs = {**kwargs, "device": "meta"}
            return func(*args, **kwargs)

    with Empty():
        yield


def _tensors(checkpoint: Checkpoint) -> dict[str, Any]:
    """Every tensor of the checkpoint, memory-mapped (pages are read when they are used)."""
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for name in checkpoint.headers:
        tensors.update(load_file(checkpoint.folder / name))
    return tensors


def _check_names(model: Any, tensors: Mapping[str, Any]) -> None:
    """Take only checkpoints whose names are the model's: the rest needs transformers' renaming.

    Raises:
        Unsuited: a name that is not the model's, or one that transformers would convert.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    ours = set(model.state_dict())
    for name in tensors:
        if name not in ours and _packed_name(name) not in ours:
            raise Unsuited(f"the checkpoint's names need converting, such as {name}")
    for entry in get_model_conversion_mapping(model):
        if isinstance(entry, WeightConverter) and _matches(entry, tensors):
            raise Unsuited("the checkpoint's tensors need converting")


def _matches(converter: Any, tensors: Mapping[str, Any]) -> bool:
    import re

    patterns = [
        re.compile(source.replace(".*.", r"\..*\.")) for source in converter.source_patterns
    ]
    return any(pattern.search(name) for pattern in patterns for name in tensors)


def _packed_name(name: str) -> str:
    """The weight a part of a packed 4-bit weight belongs to."""
    head, dot, _ = name.partition(".weight.")
    return f"{head}.weight" if dot else name


def _fill(model: Any, tensors: Mapping[str, Any], checkpoint: Checkpoint, dtype: Any) -> None:
    """Give every parameter and persistent buffer its tensor.

    Raises:
        LoadError: a tensor's shape is not the one the configuration implies.
    """
    import torch

    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        # By its mark, not its class: importing bitsandbytes costs a second of an exact load.
        is_4bit = hasattr(module, "quant_state")
        for name, parameter in list(module.named_parameters(recurse=False)):
            tensor = tensors.get(prefix + name)
            if tensor is None:
                continue
            if is_4bit and name == "weight":
                module.weight = _packed(module, prefix + name, tensors, dtype)
                continue
            _check_shape(prefix + name, tensor, parameter, checkpoint)
            value = tensor.to(parameter.dtype)
            # As transformers: bitsandbytes freezes a layer's bias too, loading thaws it.
            made = torch.nn.Parameter(value, requires_grad=value.is_floating_point())
            setattr(module, name, made)
        for name, buffer in list(module.named_buffers(recurse=False)):
            tensor = tensors.get(prefix + name)
            if tensor is not None:
                _check_shape(prefix + name, tensor, buffer, checkpoint)
                module.register_buffer(name, tensor.to(buffer.dtype))


def _packed(module: Any, name: str, tensors: Mapping[str, Any], dtype: Any) -> Any:
    """The 4-bit parameter of one linear layer: as stored, or quantized here."""
    from bitsandbytes.functional import get_4bit_type
    from bitsandbytes.nn import Params4bit

    stats = {key.removeprefix(f"{name}."): value for key, value in _parts(name, tensors).items()}
    if stats:
        return Params4bit.from_prequantized(
            data=tensors[name], quantized_stats=stats, requires_grad=False, device="cpu",
            module=module,
        )  # fmt: skip
    from transformers.pytorch_utils import Conv1D

    from mdl.kernels import quantize_4bit

    if issubclass(module.source_cls, Conv1D):
        raise Unsuited("it has Conv1D layers, which are quantized transposed")
    empty = module.weight
    made = quantize_4bit(
        tensors[name].to(dtype), quant_type=empty.quant_type, nested=empty.compress_statistics
    )
    packed, state = made.to_bitsandbytes()
    # bitsandbytes' own table: its FP4 has no negative zero, and checkpoints keep the table.
    state.code = get_4bit_type(state.quant_type, device="cpu")
    module.quant_state = state
    return Params4bit(
        packed.view(-1).view(empty.quant_storage).view(-1, 1),
        requires_grad=False,
        quant_state=state,
        blocksize=state.blocksize,
        compress_statistics=empty.compress_statistics,
        quant_type=empty.quant_type,
        quant_storage=empty.quant_storage,
        module=module,
        bnb_quantized=True,
    )


def _parts(name: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    suffixes = ("absmax", "quant_map", "nested_absmax", "nested_quant_map",
                "quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4")  # fmt: skip
    keys = (f"{name}.{suffix}" for suffix in suffixes)
    return {key: tensors[key] for key in keys if key in tensors}


def _check_shape(name: str, tensor: Any, expected: Any, checkpoint: Checkpoint) -> None:
    if tensor.shape != expected.shape:
        raise LoadError(
            f"{name} has the shape {tuple(tensor.shape)} in the checkpoint and "
            f"{tuple(expected.shape)} by config.json.",
            why="The configuration belongs to another checkpoint, or lies.",
            next="Check the repository's files and revision.",
            details={"folder": str(checkpoint.folder)},
        )


def _check_whole(model: Any, checkpoint: Checkpoint) -> None:
    """Raises: LoadError: parameters that the checkpoint does not hold and nothing ties."""
    left = tuple(name for name, parameter in model.named_parameters() if parameter.is_meta)
    if left:
        raise missing_weights(checkpoint, left)


def _read_generation_config(model: Any, checkpoint: Checkpoint) -> None:
    from transformers import GenerationConfig

    if model.can_generate() and (checkpoint.folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(
            checkpoint.folder, local_files_only=True
        )
