"""Building on a CPU from memory-mapped weights: empty modules, then the files' own pages.

Weights are mapped and assigned without a copy, unless they must be merged or split
(`weight_names`); 4-bit weights are used as stored, or quantized by mdl's own byte-exact quantizer.
Whatever this does not cover, transformers builds, and the report says why. No module is patched:
empty tensors come from a `TorchFunctionMode`, which affects only this thread and its `with` block.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mdl.errors import LoadError
from mdl.loader.build.cold_start import gc_paused
from mdl.loader.build.transformers_build import (
    Built,
    build_with_transformers,
    class_names,
    is_own_class,
    missing_weights,
    model_class,
    model_config,
    quantization_on_load,
    quiet_transformers,
    transformers_errors,
)
from mdl.loader.build.weight_names import CannotMapError, NamedTensors, name_tensors
from mdl.loader.checkpoint import Checkpoint, map_tensors, unmappable_dtypes
from mdl.model_files import ADAPTER

CPU_MAPS: tuple[Any, ...] = (None, "cpu", "auto", "sequential", "balanced")


def build_model(checkpoint: Checkpoint) -> Built:
    """Build the model from mapped weights if the result is exact, else with transformers.

    Raises:
        LoadError: the checkpoint cannot become the requested model.
        UsageError: it is quantized differently from what was requested.
    """
    try:
        return _build(mappable_class(checkpoint), checkpoint)
    except CannotMapError as reason:
        return replace(build_with_transformers(checkpoint), note=str(reason))


def mappable_class(checkpoint: Checkpoint) -> type:
    """The model class to build from mapped weights.

    Raises:
        CannotMapError: the request or the checkpoint needs transformers' own load.
    """
    import torch

    request = checkpoint.request
    if ADAPTER in checkpoint.files.rest:
        raise CannotMapError("an adapter is beside the model")
    if checkpoint.files.pickled:
        raise CannotMapError("pickled weights")
    if request.extra:
        raise CannotMapError(f"arguments for transformers: {', '.join(sorted(request.extra))}")
    on_cpu = request.device_map in CPU_MAPS or request.device_map == {"": "cpu"}
    if not on_cpu or (torch.cuda.is_available() and request.device_map != "cpu"):
        raise CannotMapError("not on the CPU")
    if request.format in ("8bit", "fp8"):
        raise CannotMapError(f"{request.format} goes through transformers")
    if checkpoint.quantization is not None and not checkpoint.is_bnb_4bit:
        raise CannotMapError(f"quantized with {checkpoint.quantization.get('quant_method')}")
    if dtypes := unmappable_dtypes(checkpoint):
        raise CannotMapError(f"tensors of dtype {', '.join(sorted(dtypes))}")
    if checkpoint.config.get("auto_map"):
        raise CannotMapError("remote code")
    if not (request.dtype or checkpoint.stored_dtype):
        raise CannotMapError("weights of several dtypes, and none is named")
    _check_plain_transformers(checkpoint)
    kind, saved_from = model_class(checkpoint)
    if request.task == "auto":
        if not saved_from:
            raise CannotMapError("no architecture named in config.json")
        return kind
    if not is_own_class(checkpoint):
        raise CannotMapError(f"task {request.task} changes the class")
    import transformers

    own: type = getattr(transformers, class_names(checkpoint)[0])
    return own


def _check_plain_transformers(checkpoint: Checkpoint) -> None:
    """Leave whatever changes how transformers builds models to transformers.

    Raises:
        CannotMapError: DeepSpeed's ZeRO 3, modules replaced in this process, fused modules.
    """
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
    from transformers.monkey_patching import get_patch_mapping

    if is_deepspeed_zero3_enabled():
        raise CannotMapError("DeepSpeed shards the weights")
    if get_patch_mapping() or checkpoint.config.get("fusion_config"):
        raise CannotMapError("modules are replaced while the model is built")


def _build(kind: Any, checkpoint: Checkpoint) -> Built:
    import torch

    on_load = quantization_on_load(checkpoint)
    config = model_config(checkpoint)
    dtype = getattr(torch, checkpoint.dtype)
    with transformers_errors(checkpoint.folder), quiet_transformers(), gc_paused():
        quantizer = _quantizer(config, on_load)
        _set_dtype(config, dtype)
        config.name_or_path = str(checkpoint.folder)
        model = _empty_model(kind, config, dtype, quantizer)
        named = name_tensors(model, map_tensors(checkpoint))
        filled = _fill(model, named.tensors, checkpoint, dtype)
        unused = _finish(model, filled, named, checkpoint)
        model.eval()
        warnings = _read_generation_config(model, checkpoint)
        if quantizer is not None:
            model.hf_quantizer = quantizer
            quantizer.postprocess_model(model)
    return Built(
        model,
        checkpoint,
        "mdl",
        named.note,
        unused_tensors=unused,
        quantized_on_load=on_load is not None,
        warnings=warnings,
    )


def _set_dtype(config: Any, dtype: Any) -> None:
    """Set the dtype of the configuration and its sub-configurations, as transformers does."""
    config.dtype = dtype
    for name in config.sub_configs:
        if (inner := getattr(config, name)) is not None:
            inner.dtype = dtype


def _quantizer(config: Any, on_load: Any) -> Any:
    """The quantizer transformers would use for the configuration; None for floats."""
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
        CannotMapError: some modules stay in float32, or a buffer would have no value.
    """
    import torch

    if dtype != torch.float32 and (
        getattr(kind, "_keep_in_fp32_modules", None)
        or getattr(kind, "_keep_in_fp32_modules_strict", None)
    ):
        raise CannotMapError("some modules stay in float32")
    with _default_dtype(dtype), _empty_parameters(), _without_init():
        model = kind(config)
        if quantizer is not None:
            quantizer.preprocess_model(
                model=model, dtype=dtype, device_map={"": "cpu"}, checkpoint_files=[],
                use_kernels=False,
            )  # fmt: skip
    if any(buffer.is_meta for buffer in model.buffers()):
        raise CannotMapError("it has buffers that only transformers can compute")
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
    """Skip random initialization; the checkpoint has all weights."""
    from transformers import initialization

    with initialization.no_init_weights():
        yield


@contextlib.contextmanager
def _empty_parameters() -> Iterator[None]:
    """Make `torch.empty`, which modules use for weights but not for buffers, give meta tensors."""
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


def _fill(model: Any, tensors: Mapping[str, Any], checkpoint: Checkpoint, dtype: Any) -> set[str]:
    """Assign the tensors to parameters and persistent buffers; returns the names assigned.

    Raises:
        LoadError: a tensor's shape does not match the configuration.
    """
    import torch

    filled = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        # Not isinstance: importing bitsandbytes would cost a 16-bit load a second.
        is_4bit = hasattr(module, "quant_state")
        for name, parameter in list(module._parameters.items()):
            tensor = tensors.get(prefix + name)
            if tensor is None or parameter is None:
                continue
            filled.add(prefix + name)
            if is_4bit and name == "weight":
                module.weight = _packed(module, prefix + name, tensors, dtype)
                continue
            _check_shape(prefix + name, tensor, parameter, checkpoint)
            value = tensor.to(parameter.dtype)
            # As in transformers: bitsandbytes freezes a layer's bias, loading unfreezes it.
            made = torch.nn.Parameter(value, requires_grad=value.is_floating_point())
            setattr(module, name, made)
        for name, buffer in list(module._buffers.items()):
            tensor = tensors.get(prefix + name)
            if tensor is not None and buffer is not None:
                filled.add(prefix + name)
                _check_shape(prefix + name, tensor, buffer, checkpoint)
                module.register_buffer(name, tensor.to(buffer.dtype))
    return filled


def _packed(module: Any, name: str, tensors: Mapping[str, Any], dtype: Any) -> Any:
    """The 4-bit weight of a linear layer: as stored, or quantized here."""
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
        raise CannotMapError("it has Conv1D layers, which are quantized transposed")
    empty = module.weight
    made = quantize_4bit(
        tensors[name].to(dtype), quant_type=empty.quant_type, nested=empty.compress_statistics
    )
    packed, state = made.to_bitsandbytes()
    # bitsandbytes' own table: its FP4 has no negative zero, and checkpoints save the table.
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
            f"{name} has shape {tuple(tensor.shape)}, but config.json implies "
            f"{tuple(expected.shape)}.",
            why="The configuration is wrong, or belongs to another checkpoint.",
            next="Check the repository's files and revision.",
            details={"folder": str(checkpoint.folder)},
        )


def _finish(
    model: Any, filled: set[str], named: NamedTensors, checkpoint: Checkpoint
) -> tuple[str, ...]:
    """Tie weights and check that all are there, by transformers' rules.

    Returns the checkpoint's tensors that the model has no place for.

    Raises:
        LoadError: weights are neither in the checkpoint nor tied.
        CannotMapError: only transformers can initialize the missing weights.
    """
    from transformers.utils.loading_report import LoadStateDictInfo

    missing = set(named.expected - filled)
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    info = LoadStateDictInfo(missing, set(named.unused), set(), [], {}, set())
    model._adjust_missing_and_unexpected_keys(info)
    if info.missing_keys:
        raise missing_weights(checkpoint, tuple(sorted(info.missing_keys)), named.unused)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CannotMapError("it has weights that only transformers can initialize")
    model._weight_conversions = named.rules
    return tuple(sorted(info.unexpected_keys))


def _read_generation_config(model: Any, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Read the generation settings as transformers does: where their file is missing or broken,
    from config.json. Returns the warnings."""
    from transformers import GenerationConfig

    if not model.can_generate():
        return ()
    folder, options = checkpoint.folder, {"local_files_only": True}
    try:
        model.generation_config = GenerationConfig.from_pretrained(folder, **options)
    except OSError:
        model.generation_config = GenerationConfig.from_pretrained(
            folder, config_file_name="config.json", _from_model_config=True, **options
        )
        if (folder / "generation_config.json").exists():
            return ("generation_config.json cannot be read and is ignored",)
    return ()
