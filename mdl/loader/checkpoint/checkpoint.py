"""A snapshot folder read as a checkpoint: configuration, weight files and their headers.

Everything is checked before a tensor is allocated: shards the index names and the disk lacks, a
truncated file, a header that lies, an index that disagrees with the headers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mdl.errors import LoadError, VerificationError
from mdl.loader.checkpoint.files import INDEX, SINGLE, Needed, choose_files
from mdl.loader.checkpoint.safetensors_header import Header, TensorInfo, read_header
from mdl.resolver import ADAPTER

FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds. `headers` maps each weight file to its header; none for pickles."""

    folder: Path
    config: Mapping[str, Any]
    files: Needed
    headers: Mapping[str, Header]

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        return {t.name: t for header in self.headers.values() for t in header.tensors}

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors.values())

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """The checkpoint's own quantization configuration, or None for a float checkpoint."""
        nested = self.config.get("text_config") or {}
        found = self.config.get("quantization_config") or nested.get("quantization_config")
        return found if isinstance(found, Mapping) else None

    @property
    def is_bnb_4bit(self) -> bool:
        return bool(self.quantization and self.quantization.get("load_in_4bit"))

    @property
    def stored_format(self) -> str | None:
        """How the weights are quantized as stored, as a format (`bnb-4bit`, `8bit`) or
        of transformers (`fp8`, `gptq`); None for floats."""
        if self.quantization is None:
            return None
        if self.is_bnb_4bit:
            return "bnb-4bit"
        eight = self.quantization.get("load_in_8bit")
        return "8bit" if eight else str(self.quantization.get("quant_method", "unknown"))

    @property
    def dtype(self) -> str | None:
        """The dtype the configuration names, such as `bfloat16`, else that of all the weights."""
        nested = self.config.get("text_config") or {}
        for table in (self.config, nested):
            named = table.get("dtype") or table.get("torch_dtype")
            if isinstance(named, str):
                return named.removeprefix("torch.")
        stored = {FLOATS[t.dtype] for t in self.tensors.values() if t.dtype in FLOATS}
        return stored.pop() if len(stored) == 1 else None


def read_checkpoint(
    folder: Path, *, allow_pickle: bool = False, remote_code: bool = False
) -> Checkpoint:
    """Read and check a local snapshot or model folder.

    Raises:
        LoadError: no model in a form that may be loaded (see `choose_files`), or an adapter.
        VerificationError: a file is missing, cut short or not what it says.
    """
    files = files_in(folder, allow_pickle=allow_pickle, remote_code=remote_code)
    if files.adapter:
        raise LoadError(
            f"{folder} holds an adapter, not a model.",
            why=f"It has {ADAPTER} and no weights of a model.",
            next="Give it where a model's name is taken, or load its base model.",
        )
    config = read_json(folder / "config.json")
    if files.pickled:
        return Checkpoint(folder, config, files, {})
    _check_index(folder, files)
    headers = {}
    for name in files.weights:
        if not (folder / name).exists():
            raise _missing(folder / name, "the link in the cache leads nowhere")
        headers[name] = read_header(folder / name)
    checkpoint = Checkpoint(folder, config, files, headers)
    _check_shards(checkpoint)
    return checkpoint


def files_in(folder: Path, *, allow_pickle: bool = False, remote_code: bool = False) -> Needed:
    """The files of a folder that a model, or an adapter, needs.

    Raises:
        LoadError: as `choose_files`.
    """
    present = [path.relative_to(folder).as_posix() for path in folder.rglob("*")
               if path.is_file() or path.is_symlink()]  # fmt: skip
    return choose_files(present, allow_pickle=allow_pickle, remote_code=remote_code)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the snapshot.

    Raises:
        VerificationError: not there, or no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise _missing(path, "the link in the cache leads nowhere") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(path, "it is no JSON object")
    return value


def weight_map(folder: Path) -> dict[str, str]:
    """Tensor name -> shard, from the index of a sharded checkpoint."""
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(v, str) for v in index.values()):
        raise _damaged(folder / INDEX, "it has no weight map")
    return index


def _check_index(folder: Path, files: Needed) -> None:
    if files.weights == (SINGLE,):
        return
    named = set(weight_map(folder).values())
    outside = sorted(named - set(files.weights))
    if outside:
        raise _missing(folder / outside[0], "the index names it and it is not there")


def _check_shards(checkpoint: Checkpoint) -> None:
    """No tensor in two files, and none of the index missing from its file."""
    seen: dict[str, str] = {}
    for file, header in checkpoint.headers.items():
        for tensor in header.tensors:
            if tensor.name in seen:
                why = f"tensor {tensor.name!r} is in {seen[tensor.name]} too"
                raise _damaged(checkpoint.folder / file, why)
            seen[tensor.name] = file
    if checkpoint.files.weights == (SINGLE,):
        return
    for name, file in weight_map(checkpoint.folder).items():
        if seen.get(name) != file:
            raise _damaged(checkpoint.folder / file, f"it lacks {name!r}, which the index names")


def _missing(path: Path, why: str) -> VerificationError:
    error = _damaged(path, why)
    error.details["missing"] = path.name
    return error


def _damaged(path: Path, why: str) -> VerificationError:
    return VerificationError(
        f"{path} is damaged.",
        why=why,
        next="If it was downloaded, run `mdl pull NAME --repair` to fetch damaged files again.",
    )
