"""The fast way to build a model on a CPU: empty modules, then the checkpoint's own pages.

The weights are memory-mapped and assigned without a copy, but for those that have to be merged or
split (see `naming`); 4-bit weights are taken as stored or quantized by mdl's own byte-exact
quantizer. Whatever this way does not cover goes through transformers' load, and the report says
why. Nobody's module is patched: the empty tensors come from a `TorchFunctionMode`, which ends with
the `with` block and concerns this thread only.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mdl.errors import LoadError
from mdl.loader.build.cold_start import collector_resting
from mdl.loader.build.transformers_build import (
    Built,
    build_with_transformers,
    is_own_class,
    missing_weights,
    model_class,
    model_config,
    quantization_on_load,
    quiet_transformers,
    refused_as_load_error,
)
from mdl.loader.build.unsuited import Unsuited
from mdl.loader.build.weight_names import Named, name_tensors
from mdl.loader.checkpoint import Checkpoint, map_tensors
from mdl.loader.request import LoadRequest

CPU_MAPS: tuple[Any, ...] = (None, "cpu", "auto", "sequential", "balanced")


def build_mapped(checkpoint: Checkpoint, request: LoadRequest) -> Built:
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
    if checkpoint.config.get("auto_map"):
        raise Unsuited("remote code")
    if not (request.dtype or checkpoint.dtype):
        raise Unsuited("weights of several dtypes, and none is named")
    _check_plain_transformers(checkpoint)
    kind, saved_from = model_class(checkpoint, request)
    if request.task == "auto":
        if not saved_from:
            raise Unsuited("no architecture named in config.json")
        return kind
    if not is_own_class(checkpoint, request):
        raise Unsuited(f"task {request.task} changes the class")
    import transformers

    found: type = getattr(transformers, checkpoint.config["architectures"][0])
    return found


def _check_plain_transformers(checkpoint: Checkpoint) -> None:
    """Leave to transformers' own load what changes how it builds models.

    Raises:
        Unsuited: DeepSpeed's ZeRO 3, modules that this process replaced, fused modules.
    """
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
    from transformers.monkey_patching import get_patch_mapping

    if is_deepspeed_zero3_enabled():
        raise Unsuited("DeepSpeed divides the weights")
    if get_patch_mapping() or checkpoint.config.get("fusion_config"):
        raise Unsuited("modules are replaced while the model is made")


def _build(kind: Any, checkpoint: Checkpoint, request: LoadRequest) -> Built:
    import torch

    quantizer_config = quantization_on_load(checkpoint, request)
    config = model_config(checkpoint, request)
    dtype = getattr(torch, request.dtype or str(checkpoint.dtype))
    with refused_as_load_error(checkpoint.folder), quiet_transformers(), collector_resting():
        quantizer = _quantizer(config, quantizer_config)
        _set_dtype(config, dtype)
        config.name_or_path = str(checkpoint.folder)
        model = _empty_model(kind, config, dtype, quantizer)
        named = name_tensors(model, map_tensors(checkpoint))
        filled = _fill(model, named.tensors, checkpoint, dtype)
        unused = _finish(model, filled, named, checkpoint)
        model.eval()
        _read_generation_config(model, checkpoint)
        if quantizer is not None:
            model.hf_quantizer = quantizer
            quantizer.postprocess_model(model)
    return Built(
        model,
        "mdl",
        named.note,
        unused_tensors=unused,
        quantized_here=quantizer_config is not None,
    )


def _set_dtype(config: Any, dtype: Any) -> None:
    """Name the dtype in the configuration and in those inside it, as transformers' load does."""
    config.dtype = dtype
    for name in config.sub_configs:
        if (inner := getattr(config, name)) is not None:
            inner.dtype = dtype


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


def _fill(model: Any, tensors: Mapping[str, Any], checkpoint: Checkpoint, dtype: Any) -> set[str]:
    """Give every parameter and persistent buffer its tensor; the names of those that got one.

    Raises:
        LoadError: a tensor's shape is not the one the configuration implies.
    """
    import torch

    filled = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        # By its mark, not its class: importing bitsandbytes costs a second of an exact load.
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
            # As transformers: bitsandbytes freezes a layer's bias too, loading thaws it.
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


def _finish(model: Any, filled: set[str], named: Named, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Tie what is tied, and hold what is there against what should be, by transformers' rules.

    Returns the checkpoint's tensors that the model has no place for.

    Raises:
        LoadError: weights that the checkpoint does not hold and nothing ties.
        Unsuited: weights that only transformers can initialise.
    """
    from transformers.utils.loading_report import LoadStateDictInfo

    missing = set(named.expected - filled)
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    info = LoadStateDictInfo(missing, set(named.unused), set(), [], {}, set())
    model._adjust_missing_and_unexpected_keys(info)
    if info.missing_keys:
        raise missing_weights(checkpoint, tuple(sorted(info.missing_keys)))
    if any(parameter.is_meta for parameter in model.parameters()):
        raise Unsuited("it has weights that only transformers can initialise")
    model._weight_conversions = named.rules
    return tuple(sorted(info.unexpected_keys))


def _read_generation_config(model: Any, checkpoint: Checkpoint) -> None:
    from transformers import GenerationConfig

    if model.can_generate() and (checkpoint.folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(
            checkpoint.folder, local_files_only=True
        )
