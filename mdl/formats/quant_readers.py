"""What each library's quantization table says of the weights."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from mdl.formats.schemes import (
    CT_FORMATS,
    FLOAT,
    Scheme,
    of_algorithm,
    of_group,
    of_quark,
    share,
)
from mdl.formats.types import Finding, number
from mdl.formats.weights import Weights, count_weights, language_config

# `quant_method` → format, for methods whose format does not depend on anything else, and the keys
# of the bits of a weight (a number stands for itself).
METHODS: Mapping[str, tuple[str, tuple[str | float, ...]]] = {
    "awq": ("awq", ("bits", "w_bit", 4.0)),
    "awq_marlin": ("awq", ("bits", "w_bit", 4.0)),
    "llm-awq": ("awq", ("bits", "w_bit", 4.0)),
    "gptq": ("gptq", ("bits", "wbits", "w_bit", 4.0)),
    "gptq_marlin": ("gptq", ("bits", 4.0)),
    "auto-gptq": ("gptq", ("bits", 4.0)),
    "gptqmodel": ("gptq", ("bits", 4.0)),
    "marlin": ("gptq", ("bits", 4.0)),
    "auto-round": ("auto-round", ("bits", 4.0)),
    "autoround": ("auto-round", ("bits", 4.0)),
    "intel/auto-round": ("auto-round", ("bits", 4.0)),
    "exl2": ("exl2", ("bits",)),
    "exl3": ("exl3", ("bits", "bits_per_weight", "routed_expert_bits", "expert_bits")),
    "mxfp4": ("mxfp4", (4.0,)),
    "mxfp8": ("mxfp8", (8.0,)),
    "nvfp4": ("nvfp4", (4.0,)),
    "petit_nvfp4": ("nvfp4", (4.0,)),
    "mxfp": ("mxfp4", ("bits", 4.0)),
    "quanto": ("quanto", ("weights", "bits")),
    "aqlm": ("aqlm", ()),
    "vptq": ("vptq", ("bits",)),
    "spqr": ("spqr", ("bits", 3.0)),
    "higgs": ("higgs", ("bits", 4.0)),
    "bitnet": ("bitnet", (1.58,)),
    "eetq": ("eetq", (8.0,)),
    "metal": ("metal", ("bits", 4.0)),
    "sinq": ("sinq", ("nbits", "bits", 4.0)),
    "fp_quant": ("fp_quant", (4.0,)),
    "bitblas": ("bitblas", ("bits", 4.0)),
    "qqq": ("qqq", ("wbits", "bits", 4.0)),
    "tpu_int8": ("w8a16", (8.0,)),
    "experts_int8": ("w8a16", (8.0,)),
}
# torchao's names: `Int8DynamicActivationInt4WeightConfig`, `int4_weight_only`, `weight_dtype`.
_TORCHAO_ACTIVATION = re.compile(r"(?:int|float)\d_?dynamic_?activation_?", re.IGNORECASE)
_TORCHAO_DTYPE = re.compile(r"(u?int|float|nvfp|mxfp|fp)_?(\d)", re.IGNORECASE)
_TORCHAO_WEIGHT = re.compile(r'"weight_dtype":[^}]*?(u?int|float)(\d)', re.IGNORECASE)


def by_method(method: str, table: Mapping[str, Any]) -> Finding | None:
    if not method:
        return None
    format, keys = METHODS.get(method, (method, ("bits", "nbits", "w_bit")))
    bits = _first_number(table, keys)
    if format in ("exl2", "exl3"):
        return Finding(format, f"bits {bits}", bitrate(bits), bits, method)
    if format == "aqlm":
        books, each = number(table.get("num_codebooks")), number(table.get("nbits_per_codebook"))
        group = number(table.get("in_group_size"))
        bits = books * each / group if books and each and group else 2.0
    if format == "vptq":
        bits = bits or _vptq_bits(table)
    if format == "quanto":
        digits = re.search(r"\d+", str(table.get("weights") or ""))
        bits = float(digits[0]) if digits else bits
    also: tuple[str, ...] = ()
    if format == "auto-round":
        packing = str(table.get("packing_format") or "").lower()
        also = tuple(f for f in ("gptq", "awq") if f in packing)
    variant = f"{round(bits)}bit" if bits and format in ("awq", "gptq", "auto-round") else ""
    said = "" if bits is None else f"bits {bits:g}"
    return Finding(format, said, variant, bits, method, also)


def _bnb(table: Mapping[str, Any], weights: Weights | None, config: Mapping[str, Any]) -> Finding:
    if table.get("load_in_4bit") or table.get("_load_in_4bit"):
        kind = str(table.get("bnb_4bit_quant_type") or "fp4").lower()
        skipped = table.get("llm_int8_skip_modules") or ()
        # Unsloth's dynamic quantization leaves chosen layers' modules as they were.
        dynamic = any("layers." in str(name) or "blocks." in str(name) for name in skipped)
        variant = "dynamic" if dynamic else kind
        return Finding("bnb-4bit", f"load_in_4bit, {kind}", variant, 4.0, "bitsandbytes")
    return Finding("bnb-8bit", "load_in_8bit", "", 8.0, "bitsandbytes")


def _fp8(
    table: Mapping[str, Any], weights: Weights | None, config: Mapping[str, Any]
) -> Finding | None:
    method = str(table.get("quant_method") or "fp8").lower()
    if method in ("fbgemm_fp8", "ptpc_fp8"):
        return Finding("fp8", "a scale for each row", "row", 8.0, method)
    block = table.get("weight_block_size")
    fp8 = Scheme("fp8", "block" if block else "tensor", 8.0)
    experts = _expert_scheme(table, config)
    if experts is not None:
        weights = count_weights(config) or weights
        held = share([(fp8, ["Linear"]), (experts, ["experts"])], weights)
        return _largest(held, method, "the experts are " + experts.format)
    found = _modelopt(table, weights, config) if table.get("quantized_layers") else None
    return found or Finding("fp8", f"blocks of {block}" if block else "", fp8.variant, 8.0, method)


def _expert_scheme(table: Mapping[str, Any], config: Mapping[str, Any]) -> Scheme | None:
    """The scheme of the experts where it is not that of the rest."""
    text = language_config(config)
    algorithm = of_algorithm(table.get("moe_quant_algo") or config.get("moe_quant_algo"))
    if algorithm is not None:
        return algorithm
    kinds = (table.get("expert_dtype"), config.get("expert_dtype"), text.get("expert_dtype"))
    return Scheme("mxfp4", "", 4.0) if "fp4" in [str(kind).lower() for kind in kinds] else None


def _compressed_tensors(
    table: Mapping[str, Any], weights: Weights | None, config: Mapping[str, Any]
) -> Finding | None:
    layout = str(table.get("format") or "")
    nested = table.get("quantization_config")
    if not table.get("config_groups") and isinstance(nested, Mapping):
        return _compressed_tensors(nested, weights, config)
    groups = _groups(table, layout)
    sparse = table.get("sparsity_config")
    sparse = bool(sparse) and isinstance(sparse, Mapping) and sparse.get("format") != "dense"
    if not groups:
        if layout in CT_FORMATS and CT_FORMATS[layout] != FLOAT:
            scheme = CT_FORMATS[layout]
            return Finding(scheme.format, layout, scheme.variant, scheme.bits, "compressed-tensors")
        said = "2:4 sparse and not quantized" if sparse else "no weights are quantized"
        return Finding("16bit", said, "", 16.0, "compressed-tensors" if sparse else "")
    found = _largest(share(groups, weights), "compressed-tensors", layout)
    if layout == "dense" and found.format != "16bit":
        return found._replace(
            format="16bit", bits=16.0, also=(), variant="", said="dense: kept as floats"
        )
    return found


def _groups(table: Mapping[str, Any], layout: str) -> list[tuple[Scheme, list[str]]]:
    groups = table.get("config_groups")
    listed = []
    if isinstance(groups, Mapping):
        for _, group in sorted(groups.items(), key=lambda item: str(item[0])):
            if isinstance(group, Mapping) and (scheme := of_group(group, layout)):
                targets = group.get("targets")
                names = [str(t) for t in targets] if isinstance(targets, list) else []
                listed.append((scheme, names or ["Linear"]))
    return listed


def _modelopt(
    table: Mapping[str, Any], weights: Weights | None, config: Mapping[str, Any]
) -> Finding | None:
    algorithm = str(table.get("quant_algo") or "")
    scheme = of_algorithm(algorithm)
    method = str(table.get("quant_method") or "modelopt").lower()
    if scheme is not None and scheme != FLOAT:
        return Finding(scheme.format, algorithm, scheme.variant, scheme.bits, method)
    layers = table.get("quantized_layers")
    by_scheme: dict[Scheme, list[str]] = {}
    if isinstance(layers, Mapping):
        for module, each in layers.items():
            kind = each.get("quant_algo") if isinstance(each, Mapping) else each
            found = of_algorithm(kind)
            if found is not None and found != FLOAT:
                by_scheme.setdefault(found, []).append(str(module))
    held = list(by_scheme.items()) or _groups(table, "")
    experts = _expert_scheme(table, config)
    if experts and experts not in [each for each, _ in held]:
        held.append((experts, ["experts"]))
        if "weight_block_size" in table:
            held.append((Scheme("fp8", "block", 8.0), ["Linear"]))
    if not held:
        if algorithm.upper() == "MIXED_PRECISION":
            return Finding("mixed", algorithm, "", None, method)
        return None if not algorithm else Finding(algorithm.lower(), algorithm, "", None, method)
    return _largest(share(held, weights), method, algorithm)


def _quark(
    table: Mapping[str, Any], weights: Weights | None, config: Mapping[str, Any]
) -> Finding | None:
    schemes: list[tuple[Scheme, list[str]]] = []
    whole = table.get("global_quant_config")
    if isinstance(whole, Mapping) and (scheme := of_quark(whole.get("weight"))):
        schemes.append((_with_activations(scheme, whole), ["Linear"]))
    layers = table.get("layer_quant_config")
    for module, each in sorted(layers.items()) if isinstance(layers, Mapping) else ():
        if isinstance(each, Mapping) and (scheme := of_quark(each.get("weight"))):
            schemes.append((_with_activations(scheme, each), [str(module)]))
    if not schemes:
        return Finding("quark", "", "", None, "quark")
    return _largest(share(schemes, weights), "quark", "")


def _with_activations(scheme: Scheme, group: Mapping[str, Any]) -> Scheme:
    """Quark's integers with the bits of the activations beside those of the weights."""
    inputs = group.get("input_tensors")
    if isinstance(inputs, list):
        inputs = inputs[-1] if inputs else None
    if scheme.format.endswith("a16") and isinstance(inputs, Mapping):
        digits = re.search(r"\d+", str(inputs.get("dtype") or ""))
        if digits:
            return scheme._replace(
                format=scheme.format.removesuffix("16") + digits[0][:2].rstrip("_")
            )
    return scheme


def _torchao(
    table: Mapping[str, Any], weights: Weights | None, config: Mapping[str, Any]
) -> Finding:
    kind = table.get("quant_type")
    kind = kind.get("default", kind) if isinstance(kind, Mapping) else kind
    name = str(kind.get("_type") or "") if isinstance(kind, Mapping) else str(kind or "")
    found = _TORCHAO_DTYPE.search(_TORCHAO_ACTIVATION.sub("", name))
    found = found or _TORCHAO_WEIGHT.search(json.dumps(kind)) or _TORCHAO_DTYPE.search(str(kind))
    if found is None:
        return Finding("torchao", name, "", None, "torchao")
    kept = "float" if found[1].lower().startswith("f") else "int"
    return Finding("torchao", name, f"{kept}{found[2]}", float(found[2]), "torchao")


def _hqq(table: Mapping[str, Any], weights: Weights | None, config: Mapping[str, Any]) -> Finding:
    inner = table.get("quant_config")
    inner = inner if isinstance(inner, Mapping) else table
    bits = _hqq_bits(inner)
    return Finding("hqq", "" if bits is None else f"nbits {bits:g}",
                   "" if bits is None else f"{round(bits)}bit", bits, "hqq")  # fmt: skip


def _hqq_bits(table: Mapping[str, Any]) -> float | None:
    if "nbits" in table:
        return number(table["nbits"])
    found = [
        b for v in table.values() if isinstance(v, Mapping) and (b := _hqq_bits(v)) is not None
    ]
    return sum(found) / len(found) if found else None


def _mlx(table: Mapping[str, Any], weights: Weights | None, config: Mapping[str, Any]) -> Finding:
    mode = str(table.get("mode") or "affine")
    bits = number(table.get("bits")) or 4.0
    variant = f"{bits:g}bit" if mode == "affine" else mode
    mixed = any(isinstance(value, Mapping) for value in table.values())
    return Finding("mlx", "mixed by layer" if mixed else "", variant, bits, "mlx")


def _largest(held: list[tuple[Scheme, float]], method: str, said: str) -> Finding:
    """The finding of the scheme with most of the weights, the others beside it."""
    (scheme, _), *others = [each for each in held if each[0] != FLOAT] or held
    also = tuple(dict.fromkeys(s.format for s, _ in others if s.format != scheme.format))
    return Finding(scheme.format, said, scheme.variant, scheme.bits, method, also)


def bitrate(bits: float | None) -> str:
    """A bitrate as EXL2's and EXL3's makers write it: `4.0`, `4.25`."""
    text = "" if bits is None else f"{bits:.2f}"
    return text.removesuffix("0")


def _first_number(table: Mapping[str, Any], keys: tuple[str | float, ...]) -> float | None:
    for key in keys:
        found = key if isinstance(key, float) else number(table.get(key))
        if found is not None:
            return found
    return None


def _vptq_bits(table: Mapping[str, Any]) -> float | None:
    """Bits of the codes of one vector, shared out over its weights."""
    layers = table.get("config_for_layers")
    layer = next(iter(layers.values()), None) if isinstance(layers, Mapping) else None
    if not isinstance(layer, Mapping):
        return None
    length = number((layer.get("vector_lens") or [0])[-1])
    books = [*(layer.get("num_centroids") or ()), *(layer.get("num_res_centroids") or ())]
    codes = sum(math.log2(book) for book in books if isinstance(book, int) and book > 1)
    return codes / length if length and length > 0 else None


READERS: Mapping[
    str, Callable[[Mapping[str, Any], Weights | None, Mapping[str, Any]], Finding | None]
] = {
    "bitsandbytes": _bnb,
    "fp8": _fp8,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "quark": _quark,
    "torchao": _torchao,
    "hqq": _hqq,
    "mlx": _mlx,
}
