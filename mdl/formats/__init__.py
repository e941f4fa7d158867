"""Recognise what a repository's weights are: `recognize` on a `Description`, with its evidence.

A format is proved by files, configurations and headers; names and tags are claims. What each
runtime loads, and each library's tables, are data here.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.formats.asked import is_variant, parse_format
    from mdl.formats.claims import catalogue_format, claimed_format, format_labels
    from mdl.formats.describe import describe_folder, description_from_json
    from mdl.formats.experts import find_apart, may_be_apart
    from mdl.formats.gguf_header import GGUF_HEAD, GgufHeader, read_gguf_head, read_gguf_header
    from mdl.formats.gguf_types import type_in
    from mdl.formats.model_shape import ModelShape, kv_cache_bytes, shape_of, shape_of_gguf
    from mdl.formats.quant_config import SIDE_FILES, config_format, find_tables
    from mdl.formats.recognition import recognize
    from mdl.formats.runtimes import LOADS, RUNTIMES, runtimes_of
    from mdl.formats.types import Description, File, Format, Variant, variant_key
    from mdl.formats.weights import named_weights

__getattr__ = door(
    __name__,
    {
        "asked": "is_variant parse_format",
        "claims": "catalogue_format claimed_format format_labels",
        "describe": "describe_folder description_from_json",
        "experts": "find_apart may_be_apart",
        "gguf_header": "GGUF_HEAD GgufHeader read_gguf_head read_gguf_header",
        "gguf_types": "type_in",
        "model_shape": "ModelShape kv_cache_bytes shape_of shape_of_gguf",
        "quant_config": "SIDE_FILES config_format find_tables",
        "recognition": "recognize",
        "runtimes": "LOADS RUNTIMES runtimes_of",
        "weights": "named_weights",
        "types": "Description File Format Variant variant_key",
    },
)
