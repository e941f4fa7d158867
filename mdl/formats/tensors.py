"""What tensors' names and types say of the weights: the strongest evidence there is."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mdl.formats.types import Description, Finding

# Endings of tensors' names that only one layout has; the first that is there decides.
_MARKS: tuple[tuple[str, str, str, float | None], ...] = (
    # ending, format, method, bits
    (".weight.quant_state.bitsandbytes__nf4", "bnb-4bit", "bitsandbytes", 4.0),
    (".weight.quant_state.bitsandbytes__fp4", "bnb-4bit", "bitsandbytes", 4.0),
    (".weight.absmax", "bnb-4bit", "bitsandbytes", 4.0),
    (".SCB", "bnb-8bit", "bitsandbytes", 8.0),
    (".trellis", "exl3", "exl3", None),
    (".q_weight", "exl2", "exl2", None),
    (".W_q", "hqq", "hqq", None),
    (".codebooks", "aqlm", "aqlm", 2.0),
    (".in_perm", "spqr", "spqr", 3.0),
    ("_proj_blocks", "mxfp4", "mxfp4", 4.0),
    (".weight_scale_2", "nvfp4", "modelopt", 4.0),
    (".weight_scale_inv", "fp8", "fp8", 8.0),
)
_FLOATS = {"F64": 64.0, "F32": 32.0, "F16": 16.0, "BF16": 16.0}
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2,
          "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8,
          "F64": 8, "F4": 0.5}  # fmt: skip


def read_tensors(description: Description) -> Finding | None:
    """What the safetensors headers show; without any, what an index of the shards names."""
    headers = {
        name: entry
        for path in sorted(description.headers)
        for name, entry in description.headers[path].items()
        if name != "__metadata__" and isinstance(entry, Mapping)
    }
    if headers:
        return _of_headers(headers)
    names = index_of(description)
    return _of_names(names, "the index of the shards") if names else None


def is_mlx_copy(description: Description) -> bool:
    """Whether a header says that MLX wrote the file."""
    notes = (header.get("__metadata__") for header in description.headers.values())
    return any(isinstance(note, Mapping) and note.get("format") == "mlx" for note in notes)


def index_of(description: Description) -> Mapping[str, Any]:
    """Tensor → shard, from the index of the root folder's shards."""
    for path in sorted(description.other_files):
        if path.endswith(".safetensors.index.json") and "/" not in path:
            table = (description.json_file(path) or {}).get("weight_map")
            if isinstance(table, Mapping):
                return table
    return {}


def _of_headers(headers: Mapping[str, Mapping[str, Any]]) -> Finding | None:
    held: dict[str, float] = {}
    for entry in headers.values():
        held[str(entry.get("dtype"))] = held.get(str(entry.get("dtype")), 0.0) + _bytes(entry)
    types = [dtype for dtype in sorted(held, key=lambda d: (-held[d], d)) if held[dtype]]
    listed = ", ".join(types[:3])
    source = "the tensors' headers"
    named = _of_names(headers, source, headers)
    if named is not None and named.format != "16bit":
        return named._replace(said=f"{named.said} ({listed})")
    if not types:
        return None
    main = types[0]
    floats = sum(size for dtype, size in held.items() if dtype in _FLOATS)
    if main in _FLOATS and floats > 0.97 * sum(held.values()):
        return Finding("16bit", f"{source}: {listed}", "", _FLOATS[main])
    if main in ("F8_E4M3", "F8_E5M2"):
        return Finding("fp8", f"{source}: {listed}", "", 8.0)
    if main == "I8" and any(name.endswith(".weight_scale") for name in headers):
        return Finding("w8a8", f"{source}: {listed} with scales", "", 8.0)
    return None


def _of_names(
    names: Iterable[str], source: str, headers: Mapping[str, Mapping[str, Any]] | None = None
) -> Finding | None:
    names = set(names)
    endings = {ending for name in names for ending in _endings(name)}
    if ".weight_packed" in endings:
        return _packed(endings, source, headers)
    if {".qweight", ".scales"} <= endings:
        return _integer_groups(names, endings, source, headers)
    if {".scales", ".biases"} <= endings or (".scales" in endings and ".weight" in endings):
        return Finding("mlx", f"{source}: .scales beside .weight", "", None, "mlx")
    for ending, format, method, bits in _MARKS:
        if ending in endings or (ending.startswith("_") and any(n.endswith(ending) for n in names)):
            return Finding(format, f"{source}: {ending.lstrip('.')}", "", bits, method)
    return None


def _packed(
    endings: set[str], source: str, headers: Mapping[str, Mapping[str, Any]] | None
) -> Finding:
    """compressed-tensors' packed weights: integers, or four-bit floats with their kind of scale."""
    said, method = f"{source}: weight_packed", "compressed-tensors"
    if ".weight_global_scale" in endings:
        return Finding("nvfp4", said + ", weight_global_scale", "", 4.0, method)
    for name, entry in (headers or {}).items():
        if name.endswith(".weight_packed") and entry.get("dtype") == "U8":
            return Finding("mxfp4", f"{said} of bytes", "", 4.0, method)
    return Finding("w4a16", said, "", None, method)


def _integer_groups(
    names: set[str], endings: set[str], source: str, headers: Mapping[str, Mapping[str, Any]] | None
) -> Finding | None:
    """GPTQ packs the rows of the input eight to a number, AWQ the columns of the output."""
    if ".g_idx" in endings:
        return Finding("gptq", f"{source}: qweight, scales, g_idx", "", None, "gptq")
    for name in sorted(names if headers else ()):
        scales = (headers or {}).get(name.removesuffix(".qweight") + ".scales")
        weight = (headers or {}).get(name)
        if name.endswith(".qweight") and weight and scales:
            outputs, columns = _last(scales), _last(weight)
            if outputs and columns:
                found = "gptq" if columns == outputs else "awq"
                return Finding(found, f"{source}: qweight of {columns} columns", "", None, found)
    return Finding("int-groups", f"{source}: qweight, scales", "", None)


def _endings(name: str) -> tuple[str, ...]:
    _, dot, last = name.rpartition(".")
    marked = re.search(r"\.weight\.(?:absmax|quant_state\.\w+)$", name)
    return (dot + last, marked[0]) if marked else (dot + last,)


def _last(entry: Mapping[str, Any]) -> int | None:
    shape = entry.get("shape")
    return shape[-1] if isinstance(shape, list | tuple) and shape else None


def _bytes(entry: Mapping[str, Any]) -> float:
    shape = entry.get("shape")
    size = _BYTES.get(str(entry.get("dtype")), 0)
    return math.prod(shape) * size if isinstance(shape, list | tuple) else 0.0
