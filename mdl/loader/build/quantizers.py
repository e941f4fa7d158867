"""Whether transformers can read how a checkpoint is quantized, by config.json, before it does."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from mdl.errors import LoadError
from mdl.formats import find_tables
from mdl.loader.checkpoint import Checkpoint, check_gguf_package, quantization_name
from mdl.loader.devices import SPREAD, device_map_of
from mdl.loader.request import LoadRequest

# quant_method → the modules that transformers needs for it, and the packages to install.
_HELPERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "aqlm": (("aqlm",), "aqlm[gpu,cpu]"),
    "auto-round": (("auto_round",), "auto-round"),
    "awq": (("gptqmodel",), "gptqmodel"),
    "bitsandbytes": (("bitsandbytes",), "bitsandbytes"),
    "compressed-tensors": (("compressed_tensors",), "compressed-tensors"),
    "eetq": (("kernels",), "kernels"),
    "fbgemm_fp8": (("fbgemm_gpu",), "fbgemm-gpu"),
    "fp_quant": (("fp_quant",), "fp_quant"),
    "gptq": (("optimum", "gptqmodel"), "gptqmodel optimum"),
    "higgs": (("flute",), "flute-kernel"),
    "quanto": (("optimum.quanto",), "optimum-quanto"),
    "quark": (("quark",), "amd-quark"),
    "spqr": (("spqr_quant",), "spqr_quant[gpu]"),
    "torchao": (("torchao",), "torchao"),
    "vptq": (("vptq",), "vptq"),
}
# quant_method of what transformers may make floats of → what it needs to leave it as it is stored.
FALLBACKS = {
    "fp8": "a GPU of compute capability 8.9 or above",
    "mxfp8": "a GPU of compute capability 8.9 or above",
    "mxfp4": "a GPU of compute capability 7.5 or above, Triton 3.4 and the package kernels",
    "metal": "Apple silicon",
}


def check_quantization(
    config: Mapping[str, Any], request: LoadRequest, checkpoint: Checkpoint | None = None
) -> None:
    """Reject quantized weights that transformers cannot read here.

    Args:
        config: what is in config.json.
        checkpoint: its weights, once they are here.

    Raises:
        LoadError: the format is not transformers', a package or the hardware for it is missing, or
            the weights are packed and config.json does not say how.
    """
    path, table = next(find_tables(config), ("", None))
    if config.get("quantization_config") == {}:
        _check_nameless("quantization_config", {}, known=True)
    if table is None:
        if checkpoint is not None and checkpoint.has_packed_4bit:
            raise LoadError(
                "The weights are 4-bit ones of bitsandbytes, but config.json does not say so.",
                why="The files have .absmax and quant_state tensors; config.json has no "
                "quantization_config.",
                next="Load the revision or repository that has the whole config.json.",
            )
        return
    method = str(table.get("quant_method") or "")
    if not method and not (table.get("load_in_4bit") or table.get("load_in_8bit")):
        if path == "quantization_config" or checkpoint is None or checkpoint.quantization:
            _check_nameless(path, table, known=path == "quantization_config" or bool(checkpoint))
        return
    if path == "quantization_config":
        _check_method(method or "bitsandbytes", table)
        _settings_here(table, request)


def why_dequantized(checkpoint: Checkpoint) -> str:
    """Why the stored weights become floats here; empty if they stay packed.

    Raises:
        LoadError: as `check_quantization`.
    """
    table = checkpoint.quantization
    method = "" if table is None else str(table.get("quant_method") or "")
    if method == "gguf":
        return "transformers computes with the floats of a GGUF file"
    if table is None or not method:
        return ""
    settings = _settings_here(table, checkpoint.request)
    if getattr(settings, "dequantize", False):
        return f"transformers computes in {method} only with {FALLBACKS.get(method, 'other means')}"
    if getattr(settings, "is_quantization_compressed", False):
        return "compressed-tensors unpacks the weights when the model first runs"
    return ""


def _settings_here(table: Mapping[str, Any], request: LoadRequest) -> Any:
    """transformers' settings for stored weights, once it has looked at packages and hardware.

    It marks what it will turn into floats with `dequantize`.

    Raises:
        LoadError: it refuses them.
    """
    import transformers
    from transformers.quantizers import AutoHfQuantizer

    method = str(table.get("quant_method") or "")
    if not method or method in ("bitsandbytes", "gguf"):
        return None
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # mdl says itself what it falls back to
    try:
        settings = AutoHfQuantizer.merge_quantization_configs(dict(table), None)
        quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=True)
        quantizer.validate_environment(device_map=_device_map(request), weights_only=True)
    except Exception as error:
        why = str(error).strip() or type(error).__name__
        raise LoadError(
            f"Weights in {quantization_name(table)} cannot be loaded here.",
            why=f"transformers {transformers.__version__} says: {why}",
            next="Install or change what it names, or load another format of the model: "
            "`mdl tree NAME` lists them.",
        ) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    if method == "mxfp4" and not _has_accelerator():
        settings.dequantize = True  # as it does later, while it builds the model
    return settings


def _device_map(request: LoadRequest) -> Any:
    """The device map as transformers hands it to its quantizers."""
    placed = device_map_of(request)
    return {"": placed} if isinstance(placed, str) and placed not in SPREAD else placed


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def _check_nameless(path: str, table: Mapping[str, Any], *, known: bool) -> None:
    if not known:
        return
    if "bits" in table and "group_size" in table:
        raise LoadError(
            "The repository is in MLX's format, which transformers does not read.",
            why=f"{path} in config.json has bits and group_size, and no quant_method.",
            next="Load it with mlx-lm on a Mac, or load the repository it was made from.",
        )
    raise LoadError(
        "config.json does not say how the weights are quantized.",
        why=f"Its {path} has no quant_method; transformers refuses it too.",
        next="Load another revision, or ask the author to fix config.json.",
    )


def _check_method(method: str, table: Mapping[str, Any]) -> None:
    if method == "gguf":
        check_gguf_package()
        return
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if method not in {*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"}:
        raise LoadError(
            f"The weights are quantized with {method}, which transformers does not read.",
            why="transformers would only warn, and take packed weights for floats.",
            next="Load it with the program it was made for, or load the original repository.",
        )
    if method == "hqq":
        _check_hqq()
    modules, package = _HELPERS.get(method, ((), ""))
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
        raise LoadError(
            f"Weights in {quantization_name({**table, 'quant_method': method})} need a package "
            "that is not installed.",
            why=f"transformers reads them with {' and '.join(missing)}.",
            next=f"pip install {package}, or load the original repository.",
        )


def _check_hqq() -> None:
    """Reject stored HQQ weights while transformers has no code that reads them.

    Raises:
        LoadError: it has none, and would leave random numbers in their place.
    """
    import transformers
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
    from transformers.quantizers.base import HfQuantizer

    theirs = getattr(AUTO_QUANTIZER_MAPPING["hqq"], "get_load_operations", None)
    if theirs is getattr(HfQuantizer, "get_load_operations", None):
        raise LoadError(
            f"transformers {transformers.__version__} does not load stored HQQ weights.",
            why="Its HQQ quantizer has no code that reads them; layers would keep random numbers.",
            next="Load it with vLLM (`mdl pull` downloads it), or load another format: "
            "`mdl tree NAME` lists them.",
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False
