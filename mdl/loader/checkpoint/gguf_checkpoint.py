"""A GGUF file as a checkpoint: its header checked against the file, its configuration read.

transformers makes the configuration of the header, reads one file, and computes with floats.
"""

from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from mdl.errors import LoadError
from mdl.formats import GgufHeader, read_gguf_header
from mdl.loader.checkpoint.checkpoint import Checkpoint, read_checkpoint
from mdl.loader.checkpoint.damage import check_no_pointer, damaged_file, missing_file
from mdl.loader.request import LoadRequest
from mdl.model_files import ModelFiles, WeightFiles

# In the place of config.json, by which the loader tells how weights are quantized.
GGUF_CONFIG = {"quantization_config": {"quant_method": "gguf"}}


def read_gguf_file(path: Path) -> GgufHeader:
    """Read the header of a local file, and check every tensor against the file's size.

    Raises:
        VerificationError: it is not a GGUF file, is cut off, or tensors overlap.
    """
    check_no_pointer(path)
    size = path.stat().st_size
    if not size:
        raise damaged_file(path, "It is empty.")
    with path.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
        try:
            header = read_gguf_header(data)
        except ValueError as error:
            raise damaged_file(path, f"It is not a GGUF file that can be read: {error}.") from error
    if header is None:
        raise damaged_file(path, f"At {size} bytes it ends inside its header.")
    at, before = header.data_start, "its header"
    for tensor in sorted(header.tensors, key=lambda tensor: tensor.start):
        if tensor.start < at:
            raise damaged_file(path, f"Tensor {tensor.name!r} overlaps {before}.")
        at, before = tensor.start + (tensor.bytes or 0), repr(tensor.name)
    if at > size:
        raise damaged_file(path, f"Its tensors end at byte {at}, but the file has {size}.")
    return header


def open_checkpoint(folder: Path, request: LoadRequest, gguf: str | None = None) -> Checkpoint:
    """The checkpoint in a folder: that of a GGUF file where one is named, else as
    `read_checkpoint` reads it.

    Raises:
        LoadError, VerificationError: as `read_checkpoint` and `read_gguf_checkpoint`.
    """
    if gguf is None:
        return read_checkpoint(folder, request)
    return read_gguf_checkpoint(folder, gguf, request)


def read_gguf_checkpoint(folder: Path, name: str, request: LoadRequest) -> Checkpoint:
    """Open a GGUF file for a request.

    Args:
        name: the file, as a path in `folder`.

    Raises:
        LoadError: transformers does not read it, or the package gguf is missing.
        VerificationError: it is missing or damaged.
    """
    path = folder / name
    if not path.exists():
        raise missing_file(path, "It is the model's only file.")
    header = read_gguf_file(path)
    check_one_file(name, int(header.metadata.get("split.count") or 1))
    config = _configuration(folder, name, header)
    return Checkpoint(folder, request, config, ModelFiles(WeightFiles((name,)), ()), {})


def check_one_file(name: str, parts: int) -> None:
    """Reject a model in several files.

    Raises:
        LoadError: it is in several.
    """
    if parts > 1:
        raise LoadError(
            f"{name} is one of {parts} files, and transformers reads a GGUF model of one file.",
            why="Split files are for llama.cpp, which takes the first and finds the others.",
            next="Load a variant of one file, or pull this one and merge it with llama.cpp's "
            "`llama-gguf-split --merge FIRST-FILE MERGED.gguf`.",
        )


def check_gguf_package() -> None:
    """Reject GGUF files without the package that reads them.

    Raises:
        LoadError: it is missing.
    """
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise LoadError(
            "Weights in gguf need a package that is not installed.",
            why="transformers reads them with gguf 0.10 or later.",
            next="pip install gguf, or load the original repository.",
        )


def _configuration(folder: Path, name: str, header: GgufHeader) -> dict[str, Any]:
    """transformers' configuration for a file, with the class to build and the stored dtype.

    Raises:
        LoadError: transformers does not read the architecture.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    check_gguf_package()
    architecture = header.metadata.get("general.architecture")
    try:
        table, _ = transformers.PreTrainedConfig.get_config_dict(folder, gguf_file=name)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise LoadError(
            f"transformers {transformers.__version__} does not read {name}, a GGUF file of the "
            f"architecture {architecture}.",
            why=f"{type(error).__name__}: {error}",
            next="Run it with llama.cpp, or load the original repository.",
        ) from error
    named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(table.get("model_type"))
    if "architectures" not in table and isinstance(named, str):
        table["architectures"] = [named]
    return {**table, **GGUF_CONFIG}
