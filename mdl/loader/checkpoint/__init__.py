"""Checkpoint files on disk: which are needed, and what their headers say."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.loader.checkpoint.checkpoint import Checkpoint, files_in, read_checkpoint, read_json
    from mdl.loader.checkpoint.files import ADAPTER_WEIGHTS, PICKLED_ADAPTER, Needed, choose_files
    from mdl.loader.checkpoint.mmap_tensors import map_tensors
    from mdl.loader.checkpoint.safetensors_header import (
        Header,
        TensorInfo,
        header_length,
        parse_header,
    )

__getattr__ = door(
    __name__,
    {
        "checkpoint": "Checkpoint files_in read_checkpoint read_json",
        "files": "ADAPTER_WEIGHTS Needed PICKLED_ADAPTER choose_files",
        "mmap_tensors": "map_tensors",
        "safetensors_header": "Header TensorInfo header_length parse_header",
    },
)
