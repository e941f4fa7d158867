"""Descriptions to recognise: from a JSON object, or from a folder on this machine."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdl.errors import UsageError
from mdl.folders import files_below
from mdl.formats.gguf_header import GGUF_HEAD, read_gguf_head
from mdl.formats.quant_config import SIDE_FILES
from mdl.formats.types import Description, File

# What is read of a folder besides headers, each where it is there.
SMALL_FILES = (
    *SIDE_FILES, "model.safetensors.index.json", "openvino_config.json", "adapter_config.json",
)  # fmt: skip
_LARGEST_TEXT = 64_000_000
_LARGEST_HEADER = 100_000_000
_MOST_HEADERS = 4  # of a model's shards: they hold the same kinds of tensors


def description_from_json(body: Any) -> Description:
    """The description in `{name, files: [{path, size}], config, other_files, tags}`.

    Sizes and contents may be unknown (`null` or left out), files may be plain paths, and small
    files either parsed JSON or text.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(body, Mapping):
        raise _not_a_description("it is not a JSON object")
    files = [_file(entry) for entry in _list(body, "files")]
    others = body.get("other_files") or {}
    if not isinstance(others, Mapping):
        raise _not_a_description("`other_files` is not an object")
    others = {str(path): content for path, content in others.items() if content is not None}
    config = body.get("config")
    if config is None:
        config = Description(other_files=others).json_file("config.json")
    elif isinstance(config, str):
        config = Description(other_files={"config.json": config}).json_file("config.json")
    if config is not None and not isinstance(config, Mapping):
        raise _not_a_description("`config` is not an object")
    tags = [str(tag) for tag in _list(body, "tags")]
    tags += [str(body["library_name"])] if isinstance(body.get("library_name"), str) else []
    parameters = body.get("parameters")
    return Description(
        name=str(body.get("name") or ""),
        files=tuple(files),
        config=config,
        other_files=others,
        tags=tuple(tags),
        headers=_tables(body, "headers"),
        gguf=_tables(body, "gguf"),
        branches=tuple(str(branch) for branch in _list(body, "branches")),
        parameters=parameters if isinstance(parameters, int) and parameters > 0 else None,
    )


def describe_folder(folder: Path, name: str = "") -> Description:
    """Describe a model's folder: its files' sizes, small configurations and headers."""
    files = []
    for path in files_below(folder):
        try:
            size: int | None = (folder / path).stat().st_size
        except OSError:
            size = None  # a link that leads nowhere
        files.append(File(path, size))
    paths = {file.path for file in files if file.size is not None}
    return Description(
        name=name or folder.name,
        files=tuple(files),
        config=_object(_text(folder / "config.json")) if "config.json" in paths else None,
        other_files={
            path: text
            for path in SMALL_FILES
            if path in paths and (text := _text(folder / path)) is not None
        },
        headers={
            file.path: header
            for file in sorted(files)
            if file.path.endswith(".safetensors") and file.path.count("/") == 0
            if _is_among_first(file.path) and (header := _header(folder / file.path)) is not None
        },
        gguf={
            file.path: head
            for file in sorted(files)
            if file.path.lower().endswith(".gguf") and file.path in paths
            if (head := read_gguf_head(_first_bytes(folder / file.path))) is not None
        },
    )


def _file(entry: Any) -> File:
    if isinstance(entry, str):
        return File(entry)
    if not isinstance(entry, Mapping):
        raise _not_a_description("a file is neither a path nor an object")
    path = entry.get("path", entry.get("rfilename"))
    size = entry.get("size")
    if not isinstance(path, str):
        raise _not_a_description("a file has no path")
    return File(path, size if isinstance(size, int) and not isinstance(size, bool) else None)


def _list(body: Mapping[str, Any], key: str) -> list[Any]:
    value = body.get(key) or []
    if not isinstance(value, list | tuple):
        raise _not_a_description(f"`{key}` is not a list")
    return list(value)


def _tables(body: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    value = body.get(key)
    if not isinstance(value, Mapping):
        return {}
    return {str(path): table for path, table in value.items() if isinstance(table, Mapping)}


def _not_a_description(why: str) -> UsageError:
    return UsageError(
        "Not a description of a repository.",
        why=why,
        next='Write {"name": …, "files": [{"path": …, "size": …}], "config": {…}}.',
    )


def _is_among_first(path: str) -> bool:
    shard = path.rpartition("-of-")[0].rpartition("-")[2]
    return not shard.isdigit() or int(shard) <= _MOST_HEADERS


def _text(path: Path) -> str | None:
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _object(text: str | None) -> Mapping[str, Any] | None:
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _header(path: Path) -> Mapping[str, Any] | None:
    """A safetensors header, `None` where there is none to be read."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _LARGEST_HEADER:
                return None
            return _object(stream.read(length).decode("utf-8", "replace"))
    except OSError:
        return None


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(GGUF_HEAD)
    except OSError:
        return b""
