"""Checkpoint files on disk: which a model needs, what their headers say, and their hashes."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.checkpoint.checkpoint import (
        Checkpoint,
        files_in,
        quantization_name,
        read_checkpoint,
    )
    from mdl.loader.checkpoint.damage import damaged_file
    from mdl.loader.checkpoint.gguf_checkpoint import (
        GGUF_CONFIG,
        check_gguf_package,
        check_one_file,
        open_checkpoint,
        read_gguf_file,
    )
    from mdl.loader.checkpoint.hashes import (
        FileRecord,
        check_hash,
        config_hash,
        file_records,
        fingerprint,
        has_hash,
    )
    from mdl.loader.checkpoint.json_files import MAX_JSON, parse_json, read_json
    from mdl.loader.checkpoint.mmap_tensors import map_tensors, unmappable_dtypes
    from mdl.loader.checkpoint.safetensors_header import Header, header_length, parse_header

__getattr__ = door(
    __name__,
    {
        "checkpoint": "Checkpoint files_in quantization_name read_checkpoint",
        "damage": "damaged_file",
        "gguf_checkpoint": (
            "GGUF_CONFIG check_gguf_package check_one_file open_checkpoint read_gguf_file"
        ),
        "hashes": "FileRecord check_hash config_hash file_records fingerprint has_hash",
        "json_files": "MAX_JSON parse_json read_json",
        "mmap_tensors": "map_tensors unmappable_dtypes",
        "safetensors_header": "Header header_length parse_header",
    },
)
