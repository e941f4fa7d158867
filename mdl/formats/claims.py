"""What names and tags claim of the weights: where to look first, and never a proof."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from mdl.formats.types import Format
from mdl.store import FORMATS

ANY_4 = frozenset(
    {
        "bnb-4bit", "awq", "gptq", "w4a16", "w4a8", "w4a4", "nvfp4", "mxfp4", "mlx", "hqq",
        "torchao", "auto-round", "gguf", "exl2", "exl3", "onnx", "openvino", "quanto", "mlc",
        "metal", "bitblas", "qqq", "fp_quant", "sinq", "higgs", "coreml",
    }
)  # fmt: skip
ANY_8 = frozenset(
    {
        "bnb-8bit", "w8a8", "w8a16", "fp8", "mxfp8", "gptq", "awq", "mlx", "hqq", "torchao",
        "auto-round", "gguf", "exl2", "exl3", "onnx", "openvino", "quanto", "eetq", "mlc",
        "ctranslate2", "tflite", "coreml",
    }
)  # fmt: skip


class Claim(NamedTuple):
    """What a name says: the format meant, and every format of which it would be true."""

    format: str | None
    word: str
    fits: frozenset[str]


# Publishers' habits: the word in a lowered name, the format meant, and what else it fits.
_NAMES: tuple[tuple[str, str | None, Iterable[str]], ...] = (
    (r"gguf", "gguf", ()),
    (r"ggml(?:v3)?", "ggml", ("gguf",)),
    (r"bnb[-_]?4[-_]?bits?|4[-_]?bits?[-_]bnb|nf4|bnb[-_](?:nf4|int4)|qlora", "bnb-4bit", ()),
    (r"bnb[-_]?8[-_]?bits?|8[-_]?bits?[-_]bnb|llm[-_]int8|bnb[-_]int8", "bnb-8bit", ()),
    (r"bnb|bitsandbytes", "bnb-4bit", ("bnb-8bit",)),
    (r"auto[-_]?awq|awq", "awq", ()),
    (r"auto[-_]?gptq|gptq(?:model|v2)?", "gptq", ()),
    (r"auto[-_]?round", "auto-round", ()),
    (r"exl2", "exl2", ()),
    (r"exl3", "exl3", ()),
    (r"hqq(?:\+)?", "hqq", ()),
    (r"torchao|ao", "torchao", ()),
    (r"aqlm(?:[-_]\w+)?", "aqlm", ()),
    (r"vptq", "vptq", ()),
    (r"svdq(?:uant)?|nunchaku", "svdquant", ()),
    (r"quanto", "quanto", ()),
    (r"eetq", "eetq", ()),
    (r"mlx", "mlx", ()),
    (r"onnx", "onnx", ()),
    (r"openvino|ov", "openvino", ()),
    (r"ct2|ctranslate2|faster[-_]whisper", "ctranslate2", ()),
    (r"coreml", "coreml", ()),
    (r"mlc", "mlc", ()),
    (r"nvfp4(?:a16)?", "nvfp4", ()),
    (r"mxfp4", "mxfp4", ()),
    (r"mxfp8", "mxfp8", ("fp8",)),
    (r"fp4", "nvfp4", ("mxfp4", "bnb-4bit")),
    (r"fp8(?:[-_]?(?:dynamic|block|static|e4m3\w*|kv))?|w8a8[-_]?fp8|f8|float8\w*", "fp8",
     ("mxfp8", "torchao", "onnx", "w4a8")),
    (r"w8a8(?:[-_]?int8)?", "w8a8", ("fp8",)),
    (r"w4a16(?:[-_]?g\d+)?", "w4a16", ("awq", "gptq", "auto-round")),
    (r"w8a16", "w8a16", ("gptq",)),
    (r"w4a8", "w4a8", ("qqq",)),
)  # fmt: skip
# Words that several formats share: they mean a format only where nothing more is known.
_WIDTHS: tuple[tuple[str, str | None, Iterable[str]], ...] = (
    (r"(?:int|w)4|4[-_]?bits?|q4", None, ANY_4),
    (r"(?:int|w)8|8[-_]?bits?|q8", None, ANY_8),
    (r"bf16|fp16|f16|fp32|f32", "16bit",
     ("mlx", "onnx", "gguf", "openvino", "ctranslate2", "coreml")),
)  # fmt: skip
_BITRATE = re.compile(r"(?<![a-z0-9])(\d+(?:[._]\d+)?)[-_]?bpw(?![a-z0-9])")

# Tags of the Hub that name a format; `4-bit` and `8-bit` name only a width.
TAGS: Mapping[str, str] = {
    "gguf": "gguf", "ggml": "ggml", "awq": "awq", "gptq": "gptq", "exl2": "exl2", "exl3": "exl3",
    "fp8": "fp8", "nvfp4": "nvfp4", "mxfp4": "mxfp4", "mxfp8": "mxfp8", "mlx": "mlx",
    "onnx": "onnx", "openvino": "openvino", "hqq": "hqq", "torchao": "torchao", "w4a16": "w4a16",
    "w8a8": "w8a8", "w8a16": "w8a16", "auto-round": "auto-round", "autoround": "auto-round",
    "aqlm": "aqlm", "vptq": "vptq", "quanto": "quanto", "bitnet": "bitnet", "eetq": "eetq",
    "ctranslate2": "ctranslate2", "coreml": "coreml", "mlc": "mlc", "mlc-llm": "mlc",
    "tflite": "tflite", "executorch": "executorch", "nemo": "nemo",
}  # fmt: skip
# Libraries whose repositories may have any of several formats. The Hub itself writes the widths,
# and takes four bits packed into bytes for eight.
WIDE_TAGS: Mapping[str, frozenset[str]] = {
    "compressed-tensors": frozenset(
        {"w4a16", "w8a16", "w8a8", "w4a8", "w4a4", "fp8", "nvfp4", "mxfp4", "mxfp8", "16bit"}),
    "modelopt": frozenset({"fp8", "nvfp4", "w4a16", "w4a8", "mxfp4", "mxfp8", "w8a8"}),
    "bitsandbytes": frozenset({"bnb-4bit", "bnb-8bit"}),
    "quark": frozenset({"fp8", "mxfp4", "nvfp4", "w8a8", "w4a16", "awq", "quark", "mxfp6"}),
    "4-bit": ANY_4, "8-bit": ANY_8 | {"nvfp4", "mxfp4"},
    "int4": ANY_4, "int8": ANY_8, "4bit": ANY_4, "8bit": ANY_8,
    "fp4": frozenset({"nvfp4", "mxfp4", "bnb-4bit"}),
}  # fmt: skip

# Most names claim nothing, and one search says so.
_ANY_MARK = re.compile(
    "bit|nf4|svdq|nunchaku|int[48]|gguf|ggml|awq|gptq|fp[0-9]|f16|f32|f8|mlx|exl|hqq|ao|onnx|openvino|ov|round|bnb|"
    "w[48]|aqlm|vptq|quanto|eetq|ct2|ctranslate|whisper|coreml|mlc|bpw|q[48]|qlora|loat8"
)


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str | None, frozenset[str]], ...]:
    """Compiled only for a name that claims something: it takes 5 ms, a tenth of `mdl resolve`."""
    return tuple(
        (
            re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])"),
            format,
            frozenset(fits) | {format or ""},
        )
        for pattern, format, fits in _NAMES + _WIDTHS
    )


def name_claims(name: str) -> list[Claim]:
    """Every format that a repository's name claims, the most telling first."""
    owner, _, own = name.lower().rpartition("/")
    claims = []
    if _ANY_MARK.search(own):
        for pattern, format, fits in _patterns():
            found = pattern.search(own)
            if found:
                claims.append(Claim(format, found[0], fits))
        bitrate = _BITRATE.search(own)
        if bitrate and not claims:
            claims.append(Claim("exl2", bitrate[0], frozenset({"exl2", "exl3", "mlx", "gguf"})))
    if owner == "mlx-community" and not any(claim.format == "mlx" for claim in claims):
        claims.insert(0, Claim("mlx", "mlx-community", frozenset({"mlx", "16bit"})))
    return claims


def tag_claims(tags: Iterable[str]) -> list[Claim]:
    """Every format that tags claim."""
    claims = []
    for tag in sorted({tag.lower() for tag in tags}):
        if tag in TAGS:
            claims.append(Claim(TAGS[tag], tag, frozenset({TAGS[tag]})))
        elif tag in WIDE_TAGS:
            claims.append(Claim(None, tag, WIDE_TAGS[tag]))
    return claims


# The catalogue's rows still have their own words for these.
_CATALOGUE = {"bnb-8bit": "8bit"}


def claimed_format(name: str) -> str | None:
    """The catalogue's format a name claims, `None` when it claims nothing (most likely 16-bit)."""
    claims = name_claims(name)
    for claim in claims:
        if claim.format is not None:
            return catalogue_format(claim.format)
    return "other" if claims else None


def format_labels(found: Format) -> tuple[str, ...]:
    """Everything a repository holds in the catalogue's words, its main format first: `16bit`,
    `gguf:Q4_K_M` where a format's variants are files of their own."""
    labels: list[str] = []
    for each in (found, *found.others):
        if each.format is not None:
            word = catalogue_format(each.format)
            named = [f"{word}:{variant.name}" for variant in each.variants if variant.files]
            labels += named or [word]
    return tuple(dict.fromkeys(labels))


def catalogue_format(format: str) -> str:
    """A format in the catalogue's words."""
    format = _CATALOGUE.get(format, format)
    return format if format == "adapter" or format in FORMATS else "other"
