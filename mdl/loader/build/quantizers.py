"""Whether transformers can read how a checkpoint is quantized, by config.json, before it does."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from mdl.errors import LoadError
from mdl.formats import find_tables
from mdl.loader.checkpoint import Checkpoint, quantization_name

# quant_method → the module that transformers needs for it, and the package to install.
_HELPERS = {
    "aqlm": ("aqlm", "aqlm[gpu]"),
    "auto-round": ("auto_round", "auto-round"),
    "awq": ("gptqmodel", "gptqmodel"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "eetq": ("kernels", "kernels"),
    "fbgemm_fp8": ("fbgemm_gpu", "fbgemm-gpu"),
    "fp_quant": ("fp_quant", "fp_quant"),
    "gptq": ("gptqmodel", "gptqmodel optimum"),
    "higgs": ("flute", "flute-kernel"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum", "optimum-quanto"),
    "quark": ("quark", "amd-quark"),
    "spqr": ("spqr_quant", "spqr_quant[gpu]"),
    "torchao": ("torchao", "torchao"),
    "vptq": ("vptq", "vptq"),
}


def check_quantization(config: Mapping[str, Any], checkpoint: Checkpoint | None = None) -> None:
    """Reject quantized weights that transformers cannot read here.

    Args:
        config: what is in config.json.
        checkpoint: its weights, once they are here.

    Raises:
        LoadError: the format is not transformers', a package for it is missing, or the weights are
            packed and config.json does not say how.
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
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if method not in {*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"}:
        raise LoadError(
            f"The weights are quantized with {method}, which transformers does not read.",
            why="transformers would only warn, and take packed weights for floats.",
            next="Load it with the program it was made for, or load the original repository.",
        )
    module, package = _HELPERS.get(method, ("", ""))
    if module and find_spec(module) is None:
        raise LoadError(
            f"Weights in {quantization_name({**table, 'quant_method': method})} need a package "
            "that is not installed.",
            why=f"transformers reads them with {module}.",
            next=f"pip install {package}, or load the original repository.",
        )
