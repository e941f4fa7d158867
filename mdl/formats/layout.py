"""Files sorted by what they are weights of: one table of endings and names."""

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

from mdl.formats.gguf_files import is_gguf
from mdl.formats.types import File, Variant

# The first pattern that fits the whole path decides. `torch` files are what transformers,
# diffusers and PyTorch read: which format those have, `config.json` and the tensors tell.
_KINDS = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("skip", r"(.*/)?(optimizer|scheduler|training_args|rng_state.*|random_states.*|scaler)"
                 r"\.(pt|pth|bin|pkl)"),
        ("skip", r"(checkpoint-\d+|global_step\d+|runs|\.cache|\.git|assets|images?)/.*"),
        ("adapter", r"(.*/)?(adapter_model|pytorch_lora_weights)(-\d+-of-\d+)?"
                    r"\.(safetensors|bin|pt)"),
        ("openvino", r"(.*/)?openvino_[^/]+\.(xml|bin)"),
        ("onnx", r".*\.onnx([._-]data(_\d+)?)?"),
        ("mlc", r"(.*/)?params_shard_\d+\.bin"),
        ("ggml", r"(.*/)?[^/]*(ggml|ggmf|ggjt)[^/]*\.bin|(.*/)?[^/]*[._-]q\d_[0-9k][^/]*\.bin"),
        ("coreml", r".*\.(mlmodel|mlpackage|mlmodelc)(/.*)?"),
        ("tflite", r".*\.(tflite|litertlm|task)"),
        ("executorch", r".*\.pte"),
        ("tensorrt", r".*\.(engine|plan)"),
        ("rknn", r".*\.(rknn|rkllm)"),
        ("llamafile", r".*\.llamafile"),
        ("nemo", r".*\.nemo"),
        ("npz", r"(.*/)?weights(\.\d+)?\.npz"),
        ("flax", r".*\.msgpack(\.index\.json)?"),
        ("tensorflow", r".*\.(h5|ckpt\.(index|data.*))|(.*/)?(saved_model\.pb|variables/.*)"),
        ("exl2", r"(.*/)?output(-\d+-of-\d+)?\.safetensors"),
        ("original", r"(original|metal)/.*\.(pth|safetensors|bin)|(.*/)?consolidated[^/]*"
                     r"\.(pth|safetensors)"),
        ("hqq", r"(.*/)?qmodel\.pt"),
        ("torch", r".*\.safetensors"),
        ("pickle", r".*\.(bin|pt|pth|ckpt|pkl)"),
    )
)  # fmt: skip
# The same weights in another precision or container, which no size may count twice.
_ANOTHER_COPY = re.compile(r"\.(fp16|fp32|bf16|non_ema)[.-]|[-_]non_ema", re.IGNORECASE)

_ONNX = re.compile(
    r"[._-](fp16|fp32|q4f16|q4|q8|int8|uint8|int4|quantized|bnb4|quint8\w*|qint8\w*)"
    r"(?=[._-]|$)",
    re.IGNORECASE,
)
ONNX_BITS = {"fp32": 32.0, "fp16": 16.0, "q8": 8.0, "int8": 8.0, "uint8": 8.0, "quantized": 8.0,
             "quint8": 8.0, "qint8": 8.0, "q4": 4.0, "q4f16": 4.0, "int4": 4.0,
             "bnb4": 4.0}  # fmt: skip


class Layout(NamedTuple):
    """A repository's weight files, sorted: `kinds` maps each kind to its files in order."""

    kinds: dict[str, tuple[File, ...]]
    paths: frozenset[str]

    def of(self, *kinds: str) -> tuple[File, ...]:
        return tuple(file for kind in kinds for file in self.kinds.get(kind, ()))


def sort_layout(files: Iterable[File]) -> Layout:
    """Sort files by kind; what holds no weights is in none."""
    kinds: dict[str, list[File]] = {}
    listed = sorted(set(files))
    for file in listed:
        kind = "gguf" if is_gguf(file.path) else _kind_of(file.path)
        if kind and kind != "skip":
            kinds.setdefault(kind, []).append(file)
    paths = frozenset(file.path for file in listed)
    _sort_bin_files(kinds, paths)
    return Layout({kind: tuple(found) for kind, found in kinds.items()}, paths)


def main_weights(files: Iterable[File]) -> tuple[File, ...]:
    """Of torch files those of one copy of the model, whose sizes can be added up.

    The root folder's where it has any, and of it the numbered shards or `model.safetensors`.
    """
    files = [file for file in files if not _ANOTHER_COPY.search(file.name)]
    top = [file for file in files if "/" not in file.path] or files
    named = [f for f in top if re.match(r"(model|pytorch_model)([.-]|$)", f.name)]
    return tuple(named or top)


def onnx_variants(files: Iterable[File]) -> tuple[Variant, ...]:
    """ONNX files by precision, the suffixes that transformers.js and Optimum write.

    Files of one export (encoder, decoder, external data) share a variant.
    """
    found: dict[str, list[File]] = {}
    for file in files:
        found.setdefault(_onnx_precision(file.path), []).append(file)
    order = sorted(found, key=lambda name: (-ONNX_BITS.get(name, 0.0), name))
    return tuple(Variant(name, tuple(sorted(found[name])), ONNX_BITS.get(name)) for name in order)


@functools.lru_cache(maxsize=20_000)
def _kind_of(path: str) -> str | None:
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(path)), None)


def _sort_bin_files(kinds: dict[str, list[File]], paths: frozenset[str]) -> None:
    """`.bin` is what OpenVINO, CTranslate2 and PyTorch all call their weights."""
    pickles = kinds.get("pickle", [])
    vocabulary = any(
        re.fullmatch(r"(shared_|source_|target_)?vocabulary\.(json|txt)", p) for p in paths
    )
    for file in list(pickles):
        stem = file.path.rpartition(".")[0]
        if file.path.endswith(".bin") and f"{stem}.xml" in paths:
            kind = "openvino"
        elif file.path == "model.bin" and vocabulary:
            kind = "ctranslate2"
        else:
            continue
        pickles.remove(file)
        kinds.setdefault(kind, []).append(file)
    if not pickles:
        kinds.pop("pickle", None)


def _onnx_precision(path: str) -> str:
    stem = re.sub(r"\.onnx([._-]data(_\d+)?)?$", "", path, flags=re.IGNORECASE)
    for part in reversed(stem.split("/")):
        found = _ONNX.findall("_" + part)
        if found:
            last = str(found[-1]).lower()
            return re.sub(r"^(q[u]?int8).*", r"\1", last)
    return "fp32"
