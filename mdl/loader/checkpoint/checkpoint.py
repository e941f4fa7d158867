"""A model folder opened for a request: its configuration, weight files and their headers.

Everything is checked before a tensor is allocated: missing shards, truncated files, headers that
do not match their file, an index that does not match the headers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mdl.errors import LoadError, VerificationError
from mdl.formats import ADAPTER
from mdl.loader.checkpoint.files import INDEX, SINGLE, CheckpointFiles, choose_files
from mdl.loader.checkpoint.safetensors_header import Header, TensorInfo, damaged_file, read_header
from mdl.loader.request import LoadRequest

FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model, and the request to load them for.

    `headers` maps each weight file to its header; it is empty for pickles.
    """

    folder: Path
    request: LoadRequest
    config: Mapping[str, Any]
    files: CheckpointFiles
    headers: Mapping[str, Header]

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        return {t.name: t for header in self.headers.values() for t in header.tensors}

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors.values())

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """The quantization configuration the weights are stored with; None for floats."""
        nested = self.config.get("text_config") or {}
        found = self.config.get("quantization_config") or nested.get("quantization_config")
        return found if isinstance(found, Mapping) else None

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
        if self.is_bnb_4bit:
            return "bnb-4bit"
        eight = self.quantization.get("load_in_8bit")
        return "8bit" if eight else str(self.quantization.get("quant_method", "unknown"))

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
    config = read_json(folder / "config.json")
    if files.pickled:
        return Checkpoint(folder, request, config, files, {})
    _check_index(folder, files)
    headers = {}
    for name in files.weights:
        if not (folder / name).exists():
            raise _missing(folder / name, "The cache's link to it is dangling.")
        headers[name] = read_header(folder / name)
    checkpoint = Checkpoint(folder, request, config, files, headers)
    _check_shards(checkpoint)
    return checkpoint


def files_in(folder: Path, request: LoadRequest) -> CheckpointFiles:
    """The files of a folder that the model, or the adapter, in it consists of.

    Raises:
        LoadError: as `choose_files`.
    """
    present = [path.relative_to(folder).as_posix() for path in folder.rglob("*")
               if path.is_file() or path.is_symlink()]  # fmt: skip
    return choose_files(
        present, allow_pickle=request.allow_pickle, remote_code=request.trust_remote_code
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the checkpoint.

    Raises:
        VerificationError: the file is missing, or does not contain a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise _missing(path, "The cache's link to it is dangling.") from error
    except (ValueError, RecursionError) as error:
        raise damaged_file(path, f"It is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise damaged_file(path, "It is not a JSON object.")
    return value


def weight_map(folder: Path) -> dict[str, str]:
    """Tensor name → shard, from the index of a sharded checkpoint."""
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(v, str) for v in index.values()):
        raise damaged_file(folder / INDEX, "It has no weight map.")
    return index


def _check_index(folder: Path, files: CheckpointFiles) -> None:
    """Every shard in the index must be there."""
    if files.weights == (SINGLE,):
        return
    absent = sorted(set(weight_map(folder).values()) - set(files.weights))
    if absent:
        raise _missing(folder / absent[0], "The index names it, but it is missing.")


def _check_shards(checkpoint: Checkpoint) -> None:
    """No tensor may be in two files, and each must be in the file that the index names."""
    seen: dict[str, str] = {}
    for file, header in checkpoint.headers.items():
        for tensor in header.tensors:
            if tensor.name in seen:
                why = f"Tensor {tensor.name!r} is also in {seen[tensor.name]}."
                raise damaged_file(checkpoint.folder / file, why)
            seen[tensor.name] = file
    if checkpoint.files.weights == (SINGLE,):
        return
    for name, file in weight_map(checkpoint.folder).items():
        if seen.get(name) != file:
            why = f"Tensor {name!r} is missing, which the index lists."
            raise damaged_file(checkpoint.folder / file, why)


def _missing(path: Path, why: str) -> VerificationError:
    error = damaged_file(path, why)
    error.details["missing"] = path.name
    return error
