"""Checkpoint files on disk: which a model needs, what their headers say, and their hashes."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.checkpoint.checkpoint import Checkpoint, files_in, read_checkpoint, read_json
    from mdl.loader.checkpoint.files import (
        ADAPTER_WEIGHTS,
        PICKLED_ADAPTER,
        CheckpointFiles,
        choose_files,
    )
    from mdl.loader.checkpoint.hashes import (
        FileRecord,
        blob_hash,
        config_hash,
        file_records,
        fingerprint,
    )
    from mdl.loader.checkpoint.mmap_tensors import map_tensors
    from mdl.loader.checkpoint.safetensors_header import Header, header_length, parse_header

__getattr__ = door(
    __name__,
    {
        "checkpoint": "Checkpoint files_in read_checkpoint read_json",
        "files": "ADAPTER_WEIGHTS CheckpointFiles PICKLED_ADAPTER choose_files",
        "hashes": "FileRecord blob_hash config_hash file_records fingerprint",
        "mmap_tensors": "map_tensors",
        "safetensors_header": "Header header_length parse_header",
    },
)
