"""What a `quantization_config`, or a file that stands in for one, says of the weights."""

from collections.abc import Iterator, Mapping
from typing import Any

from mdl.formats.claims import catalogue_format
from mdl.formats.quant_readers import READERS, by_method
from mdl.formats.types import Finding
from mdl.formats.weights import count_weights

# What is looked at, in this order, where several tell of a quantization.
_KEYS = ("quantization_config", "compression_config", "quantization")
SIDE_FILES = (
    "hf_quant_config.json", "quantization_config.json", "quantize_config.json", "quant_config.json",
    "quant_cfg.json", "modelopt_quant_config.json",
)  # fmt: skip
_GPTQ_KEYS = {"desc_act", "damp_percent", "sym", "static_groups", "true_sequential"}


def find_tables(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every quantization table in a configuration with its path, the top level's first."""
    yield from _tables_in(config, "", 0)


def _tables_in(
    config: Mapping[str, Any], path: str, depth: int
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key in _KEYS:
        table = config.get(key)
        if isinstance(table, Mapping) and table:
            yield f"{path}{key}", table
    if depth < 3:
        for key in sorted(k for k in config if isinstance(k, str)):
            nested = config[key]
            if isinstance(nested, Mapping) and key not in _KEYS:
                yield from _tables_in(nested, f"{path}{key}.", depth + 1)


def read_table(
    table: Mapping[str, Any], source: str, config: Mapping[str, Any] | None = None
) -> Finding | None:
    """What one table says; `None` where it says nothing of the weights.

    Args:
        table: the quantization configuration.
        source: where it stands, for the evidence.
        config: the `config.json` around it, which tells what share each part of the model has.
    """
    inner = table.get("quantization")
    if isinstance(inner, Mapping) and not table.get("quant_method"):
        table = inner  # hf_quant_config.json's outer shell
    method = _method(table)
    read = READERS.get(method)
    if read is not None:
        found = read(table, count_weights(config), config or {})
    else:
        found = by_method(method, table)
    if found is None:
        return None
    named = table.get("quant_method")
    said = f"{source}: quant_method is {named}" if named else f"{source}: {_shape(table, method)}"
    if found.said:
        said += f", {found.said}"
    return found._replace(said=said)


def _method(table: Mapping[str, Any]) -> str:
    """Which library's table this is; where it does not say so, by its keys."""
    method = str(table.get("quant_method") or "").lower()
    if _bnb_flags(table):
        return "bitsandbytes"
    if method.startswith("modelopt"):
        return "modelopt"
    if "fp8" in method and method != "mxfp8":
        return "fp8"
    if method:
        return "compressed-tensors" if method == "compressed_tensors" else method
    keys = set(table)
    algorithm = "quant_algo" in keys or "quantized_layers" in keys or "moe_quant_algo" in keys
    for found, fits in (
        ("modelopt", algorithm),
        ("compressed-tensors", bool(keys & {"config_groups", "sparsity_config"})),
        ("quark", "global_quant_config" in keys),
        ("fp8", "weight_block_size" in keys or "activation_scheme" in keys),
        ("torchao", "quant_type" in keys),
        ("hqq", bool(keys & {"quant_config", "weight_quant_params"})),
        ("gptq", "bits" in keys and bool(keys & _GPTQ_KEYS)),
        ("awq", "w_bit" in keys or {"bits", "zero_point"} <= keys),
        ("mlx", "bits" in keys and bool(keys & {"group_size", "mode"})),
        (str(table.get("store_dtype") or "").lower(), "store_dtype" in keys),
    ):
        if fits:
            return found
    return ""


def _bnb_flags(table: Mapping[str, Any]) -> bool:
    return any(bool(table.get(f"{dash}load_in_{n}bit")) for n in (4, 8) for dash in ("", "_"))


def _shape(table: Mapping[str, Any], method: str) -> str:
    keys = [
        key for key in ("bits", "group_size", "mode", "quant_algo") if table.get(key) is not None
    ]
    return ", ".join(f"{key} {table[key]}" for key in keys) or f"a table of {method or 'nobody'}"


def config_format(quantization: Mapping[str, Any] | None) -> str:
    """The catalogue's format behind a `quantization_config` (`None`: there is none)."""
    found = read_table(quantization, "") if quantization else None
    return (
        "16bit"
        if not quantization
        else "other"
        if found is None
        else catalogue_format(found.format)
    )
