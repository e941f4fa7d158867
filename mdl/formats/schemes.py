"""Quantization schemes by module: compressed-tensors', ModelOpt's and Quark's tables.

A checkpoint may have several schemes at the same time; it is called after the one that holds most
of its weights, and the others stand beside it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mdl.formats.types import number
from mdl.formats.weights import Weights


class Scheme(NamedTuple):
    """A format, its variant, and the bits of a weight."""

    format: str
    variant: str = ""
    bits: float | None = None


FLOAT = Scheme("16bit", "", 16.0)

# compressed-tensors' `format`, where the groups do not say more.
CT_FORMATS = {
    "pack-quantized": Scheme("w4a16", "", 4.0),
    "marlin-24": Scheme("w4a16", "2:4", 4.0),
    "int-quantized": Scheme("w8a8", "", 8.0),
    "float-quantized": Scheme("fp8", "", 8.0),
    "nvfp4-pack-quantized": Scheme("nvfp4", "", 4.0),
    "mxfp4-pack-quantized": Scheme("mxfp4", "", 4.0),
    "mxfp8-quantized": Scheme("mxfp8", "", 8.0),
    "dense": FLOAT,
}

# ModelOpt's `quant_algo`.
MODELOPT = {
    "FP8": Scheme("fp8", "tensor", 8.0),
    "FP8_PER_CHANNEL_PER_TOKEN": Scheme("fp8", "row", 8.0),
    "FP8_PB_WO": Scheme("fp8", "block", 8.0),
    "FP8_PB_REAL": Scheme("fp8", "block", 8.0),
    "FP8_BLOCK_SCALES": Scheme("fp8", "block", 8.0),
    "MXFP8": Scheme("mxfp8", "", 8.0),
    "W4A16_MXFP4": Scheme("mxfp4", "", 4.0),
    "W4A8_MXFP4_FP8": Scheme("mxfp4", "", 4.0),
    "MXFP4": Scheme("mxfp4", "", 4.0),
    "INT4_AWQ": Scheme("w4a16", "", 4.0),
    "W4A16_AWQ": Scheme("w4a16", "", 4.0),
    "W4A16": Scheme("w4a16", "", 4.0),
    "W4A8_AWQ": Scheme("w4a8", "", 4.0),
    "INT8_SQ": Scheme("w8a8", "", 8.0),
    "W8A8_SQ_PER_CHANNEL": Scheme("w8a8", "", 8.0),
    "INT8_WO": Scheme("w8a16", "", 8.0),
    "W8A16": Scheme("w8a16", "", 8.0),
    "UNQUANTIZED": FLOAT,
    "NO_QUANT": FLOAT,
}

# Words in a module's name, by the part of the model they stand for.
_EXPERTS = ("expert", "block_sparse_moe", "switch_mlp")
_MLP = ("mlp", "ffn", "feed_forward", "gate_proj", "up_proj", "down_proj", "gate_up", "fc1", "fc2",
        "fc_in", "dense_h", "mixer", "w1", "w2", "w3")  # fmt: skip
_ATTENTION = ("attn", "attention", "q_proj", "k_proj", "v_proj", "o_proj", "qkv", "c_proj")
_EMBEDDINGS = ("embed", "lm_head", "wte")
# Shares where the configuration does not tell them.
_USUAL = Weights(attention=0.3, mlp=0.6, experts=0.0, embeddings=0.1)
_USUAL_MOE = Weights(attention=0.05, mlp=0.02, experts=0.9, embeddings=0.03)


def of_algorithm(name: Any) -> Scheme | None:
    """The scheme behind ModelOpt's `quant_algo`."""
    upper = str(name or "").upper()
    if upper in MODELOPT:
        return MODELOPT[upper]
    if "NVFP4" in upper:
        return Scheme("nvfp4", "", 4.0)
    return None


def of_group(group: Mapping[str, Any], default: str = "") -> Scheme | None:
    """The scheme of one of compressed-tensors' `config_groups`; `None` if it quantizes nothing."""
    if group.get("quant_algo"):
        return of_algorithm(group["quant_algo"])
    weights = group.get("weights")
    layout = CT_FORMATS.get(str(group.get("format") or default))
    if not isinstance(weights, Mapping):
        return None
    if weights.get("quant_algo"):
        return of_algorithm(weights["quant_algo"])
    if layout == FLOAT:
        return FLOAT
    bits = number(weights.get("num_bits")) or (layout.bits if layout else None)
    kind = str(weights.get("type") or "")
    if bits is None:
        return layout
    if kind == "float" or (layout and layout.format in ("fp8", "nvfp4", "mxfp4", "mxfp8")):
        return _float_scheme(weights, bits, layout)
    activations = group.get("input_activations")
    active = number(activations.get("num_bits")) if isinstance(activations, Mapping) else None
    rounded = round(bits)
    sparse = layout.variant if layout and layout.variant == "2:4" else ""
    return Scheme(f"w{rounded}a{round(active or 16)}", sparse, bits)


def _float_scheme(weights: Mapping[str, Any], bits: float, layout: Scheme | None) -> Scheme:
    group = number(weights.get("group_size"))
    exponents = "e8m0" in str(weights.get("scale_dtype", "")) or group == 32
    if bits <= 5:
        micro = layout.format if layout and layout.format in ("nvfp4", "mxfp4") else None
        return Scheme(micro or ("mxfp4" if exponents else "nvfp4"), "", bits)
    if exponents or (layout and layout.format == "mxfp8"):
        return Scheme("mxfp8", "", bits)
    strategy = str(weights.get("strategy") or "")
    variant = {"channel": "row", "block": "block", "tensor": "tensor", "group": "group"}
    found = variant.get(strategy, "")
    return Scheme("fp8", "block" if weights.get("block_structure") else found, bits)


def of_quark(weight: Any) -> Scheme | None:
    """The scheme of one of Quark's weight specifications; of several stages the last is stored."""
    if isinstance(weight, list):
        return of_quark(weight[-1]) if weight else None
    if not isinstance(weight, Mapping):
        return None
    kind = str(weight.get("dtype") or "").lower()
    scale = str(weight.get("scale_format") or "").lower()
    if kind.startswith("fp8"):
        by = {"per_channel": "row", "per_tensor": "tensor", "per_block": "block"}
        return Scheme("fp8", by.get(str(weight.get("qscheme")), ""), 8.0)
    if kind.startswith(("fp4", "mxfp4", "mx_fp4")) or (kind == "mx" and "4" in str(weight)):
        nv = number(weight.get("group_size")) == 16 and scale != "e8m0"
        return Scheme("nvfp4" if nv else "mxfp4", "", 4.0)
    if kind.startswith(("mxfp6", "fp6")):
        return Scheme("mxfp6", "", 6.0)
    digits = "".join(c for c in kind if c.isdigit())
    return Scheme(f"w{digits}a16", "", float(digits)) if kind.startswith(("int", "uint")) else None


def share(
    schemes: Iterable[tuple[Scheme, Iterable[str]]], weights: Weights | None
) -> list[tuple[Scheme, float]]:
    """Schemes and the part of the model's weights that each holds, the largest first.

    Args:
        schemes: each with the modules it is for: names, globs, `re:` patterns, or classes such as
            `Linear`, which stand for whatever no other names.
        weights: of the model, by part.
    """
    listed = [(scheme, [str(target) for target in targets]) for scheme, targets in schemes]
    named = {part for _, targets in listed for target in targets if (part := _part(target))}
    if weights is None or ("experts" in named and not weights.experts):
        weights = _USUAL_MOE if "experts" in named else _USUAL
    held: dict[Scheme, float] = {}
    for part in ("attention", "mlp", "experts", "embeddings"):
        amount = float(getattr(weights, part))
        counts = [sum(_part(target) == part for target in targets) for _, targets in listed]
        if not any(counts):
            if part == "embeddings":
                continue
            counts = [sum(_part(target) is None for target in targets) for _, targets in listed]
        for (scheme, _), count in zip(listed, counts, strict=True):
            if count:
                held[scheme] = held.get(scheme, 0.0) + amount * count / sum(counts)
    for scheme, _ in listed:
        held.setdefault(scheme, 0.0)
    return sorted(held.items(), key=lambda each: (-each[1], each[0]))


def _part(target: str) -> str | None:
    """The part of a model that a module's name belongs to; `None` for a class or for all."""
    lowered = target.lower()
    for part, words in (
        ("experts", _EXPERTS if "shared" not in lowered else ()),
        ("attention", _ATTENTION), ("embeddings", _EMBEDDINGS), ("mlp", _MLP),
    ):  # fmt: skip
        if any(word in lowered for word in words):
            return part
    return None
