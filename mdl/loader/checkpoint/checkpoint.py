"""A model folder opened for a request: its configuration, weight files and their headers.

Everything is checked before a tensor is allocated: missing shards, truncated files, headers that
do not match their file.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mdl.errors import LoadError
from mdl.folders import files_below
from mdl.formats import find_tables
from mdl.loader.checkpoint.damage import check_no_pointer, missing_file
from mdl.loader.checkpoint.json_files import read_any_json, read_json
from mdl.loader.checkpoint.safetensors_header import Header, TensorInfo, read_header
from mdl.loader.request import LoadRequest
from mdl.model_files import ADAPTER, CONFIG, ModelFiles, choose_files, subfolders

# Masks and positions that models keep as buffers.
_OTHERS = ("BOOL", "I64")
FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


# What quantizers store beside or in place of a weight, whatever its dtype.
_STATISTICS = (".SCB", ".absmax", ".scales", ".qweight", ".weight_scale", ".weight_scale_inv",
               ".weight_packed", ".codebooks", ".weight_blocks", ".trellis")  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model, and the request to load them for.

    `headers` maps each weight file to its header; it is empty for pickles and GGUF.
    """

    folder: Path
    request: LoadRequest
    config: Mapping[str, Any]
    files: ModelFiles
    headers: Mapping[str, Header]

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        return {t.name: t for header in self.headers.values() for t in header.tensors}

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors.values())

    @property
    def gguf_file(self) -> str | None:
        """The GGUF file with the weights, as a path in the folder."""
        first = next(iter(self.files.weights.files), "")
        return first if first.lower().endswith(".gguf") else None

    @property
    def stored_bytes(self) -> int:
        """Bytes of the weights as they are stored."""
        if self.headers:
            return self.weight_bytes
        return sum((self.folder / name).stat().st_size for name in self.files.weights.files)

    @property
    def claimed_quantization(self) -> Mapping[str, Any] | None:
        """The quantization that config.json claims, wherever it does; None if it claims none."""
        return next((table for _, table in find_tables(self.config)), None)

    @cached_property
    def quantization(self) -> Mapping[str, Any] | None:
        """The quantization configuration the weights are stored with; None for floats.

        The headers are the proof: merges often keep the configuration of the model they came from.
        Pickles and GGUF files have no such headers, so for them the claim is believed.
        """
        claimed = self.claimed_quantization
        if claimed is None or not self.headers:
            return claimed
        return claimed if any(_is_packed(tensor) for tensor in self.tensors.values()) else None

    @property
    def has_packed_4bit(self) -> bool:
        """Whether there are statistics of bitsandbytes' 4-bit weights among the tensors."""
        return any(".quant_state.bitsandbytes__" in name for name in self.tensors)

    @property
    def is_bnb_4bit(self) -> bool:
        return bool(self.quantization and self.quantization.get("load_in_4bit"))

    @property
    def becomes_4bit(self) -> bool:
        """Whether the loaded weights are bitsandbytes' 4-bit ones: as stored, or quantized."""
        return self.is_bnb_4bit or self.request.wants_4bit

    @property
    def stored_format(self) -> str | None:
        """What the weights are quantized to as stored: one of our formats (`bnb-4bit`, `8bit`) or
        a quantization method of transformers (`fp8`, `gptq`); None for floats."""
        if self.quantization is None:
            return None
        return quantization_name(self.quantization)

    @property
    def stored_dtype(self) -> str | None:
        """The dtype in the configuration, such as `bfloat16`, else the only one of the weights."""
        nested = self.config.get("text_config") or {}
        for table in (self.config, nested):
            named = table.get("dtype") or table.get("torch_dtype")
            if isinstance(named, str):
                return named.removeprefix("torch.")
        stored = {FLOATS[t.dtype] for t in self.tensors.values() if t.dtype in FLOATS}
        return stored.pop() if len(stored) == 1 else None

    @property
    def dtype(self) -> str:
        """The dtype to load in: the requested one, else the stored one, else `float32`."""
        return self.request.dtype or self.stored_dtype or "float32"


def quantization_name(table: Mapping[str, Any]) -> str:
    """What a quantization configuration quantizes to: `bnb-4bit`, `8bit` or its method."""
    if table.get("load_in_4bit"):
        return "bnb-4bit"
    return "8bit" if table.get("load_in_8bit") else str(table.get("quant_method") or "MLX")


def _is_packed(tensor: TensorInfo) -> bool:
    """Whether a tensor can only be one of a quantized checkpoint."""
    return tensor.name.endswith(_STATISTICS) or (
        len(tensor.shape) > 1 and tensor.dtype not in FLOATS and tensor.dtype not in _OTHERS
    )


def read_checkpoint(folder: Path, request: LoadRequest | None = None) -> Checkpoint:
    """Read and check a local model folder.

    Args:
        request: what to load it for; a plain 16-bit load by default.

    Raises:
        LoadError: not a model that can be loaded (see `choose_files`), or an adapter.
        VerificationError: a file is missing, truncated or damaged.
    """
    request = request or LoadRequest(str(folder))
    files = files_in(folder, request)
    if files.adapter:
        raise LoadError(
            f"{folder} is an adapter, not a model.",
            why=f"It has {ADAPTER} and no model weights.",
            next="Load the adapter itself, by its name or folder, or load its base model.",
        )
    config = read_json(folder / CONFIG)
    for name in files.weights.missing:
        raise missing_file(folder / name, f"{files.weights.named_by or CONFIG} names it.")
    for name in files.rest:
        check_no_pointer(folder / name)
    if files.pickled:
        return Checkpoint(folder, request, config, files, {})
    headers = {}
    for name in files.weights.files:
        if not (folder / name).exists():
            raise missing_file(folder / name, "The cache's link to it is dangling.")
        headers[name] = read_header(folder / name)
    return Checkpoint(folder, request, config, files, headers)


def files_in(folder: Path, request: LoadRequest) -> ModelFiles:
    """The files of a folder that the model, or the adapter, in it consists of.

    Looks only where these can be, so that thousands of other files cost nothing.

    Raises:
        LoadError: as `choose_files`.
        VerificationError: config.json or an index is not JSON.
    """
    contents: dict[str, Any] = {}

    def read(name: str) -> Any:
        if name not in contents:
            contents[name] = read_any_json(folder / name)
        return contents[name]

    names = set(_files_of(folder, ""))
    if not names & {CONFIG, ADAPTER}:
        names.update(path.relative_to(folder).as_posix() for path in folder.glob(f"*/{CONFIG}"))
    else:
        for inside in subfolders(names, read):
            names.update(_files_of(folder, inside))
    how = {"pickles": request.allow_pickle, "code": request.trust_remote_code}
    try:
        return choose_files(names, read, **how)
    except LoadError:  # say what is there instead, in folders too
        names.update(files_below(folder))
        return choose_files(names, read, **how)


def _files_of(folder: Path, inside: str) -> Iterator[str]:
    """The files of one folder, dangling links included, as paths in `folder`."""
    try:
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                if not entry.is_dir():
                    yield f"{inside}/{entry.name}" if inside else entry.name
    except (FileNotFoundError, NotADirectoryError):
        return
