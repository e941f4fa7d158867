"""GGUF files of a repository, sorted into variants, projectors and what is not a model."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mdl.formats.gguf_types import FILE_TYPES, bits_of, default_order, type_in
from mdl.formats.types import File, Variant, total

# `-00001-of-00003.gguf` is llama.cpp's; `.part1of2` and `-split-a` are pieces of one file.
_SPLIT = re.compile(r"[-.](\d{5})-of-(\d{5})$", re.IGNORECASE)
_PIECE = re.compile(
    r"\.gguf(?:\.part-?(\d+)-?of-?(\d+)|[-.]split-([a-z])|\.part[-_.]?(\d+|[a-z]))$", re.IGNORECASE
)
# `…-MTP-Q8_0.gguf` is a model with its heads in it; `mtp-…` is the heads alone.
_HEADS = ("mtp", "eagle3", "dflash", "dspark", "draft")
_HEAD = re.compile(
    r"^(?:mtp|eagle-?3|dflash|dspark|draft)(?:[-_.]|$)|[-_.](?:eagle-?3|dflash|dspark)(?:[-_.]|$)",
    re.IGNORECASE,
)
_ADAPTER = re.compile(r"(?:^|[-_.])(?:q?lora|adapter)(?:$|[-_.])", re.IGNORECASE)
_IMATRIX_AROUND = re.compile(r"^imatrix(?:$|[-_.])|[-_.]imatrix$", re.IGNORECASE)
# An importance matrix has a number for each column, where a model has its matrices.
_LARGEST_IMATRIX = 2_000_000_000
_WIDE = (None, "F32", "F16", "BF16", "Q8_0")  # what matrices are taken from, and adapters kept in
_LARGEST_ADAPTER = 3_000_000_000


class GgufFile(NamedTuple):
    """One file by its name: its kind, its type, and its place among the parts of a split."""

    file: File
    kind: str  # model, mmproj, imatrix, head, adapter, vocab
    type: str | None
    stem: str  # the path without ending and part, what parts of one model share
    part: int = 1
    parts: int = 1
    pieces: bool = False  # to be joined before anything can read them


class GgufFiles(NamedTuple):
    """All GGUF files of a repository. `untyped` models have no type in their name or header."""

    variants: tuple[Variant, ...] = ()
    projectors: tuple[Variant, ...] = ()
    untyped: tuple[Variant, ...] = ()
    adapters: tuple[File, ...] = ()
    heads: tuple[File, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[Variant, ...]:
        return self.variants + self.untyped


def is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf") or _PIECE.search(path) is not None


def read_name(file: File, metadata: Mapping[str, Any] | None = None) -> GgufFile:
    """What a GGUF file's name says of it, and its header where that was read."""
    metadata = metadata or {}
    piece = _PIECE.search(file.path)
    stem = file.path[: piece.start()] if piece else file.path[: -len(".gguf")]
    part = parts = 1
    if piece:
        place = next(group for group in (piece[1], piece[3], piece[4]) if group)
        part = int(place) if place.isdigit() else ord(place.lower()) - ord("a") + 1
        parts = int(piece[2] or 0)
    split = _SPLIT.search(stem)
    if split:
        stem, part, parts = stem[: split.start()], int(split[1]), int(split[2])
    name = stem.rpartition("/")[2]
    found = type_in(name) or _type_of_folder(stem)
    kind = _kind(name, stem, found, metadata)
    if kind == "model" and not metadata and _is_adapter(name, found, file.size):
        kind = "adapter"
    if kind == "model" and isinstance(metadata.get("general.file_type"), int):
        found = found or FILE_TYPES.get(metadata["general.file_type"])
    return GgufFile(file, kind, found, stem, part, parts, piece is not None)


def sort_files(
    files: Iterable[File], metadata: Mapping[str, Mapping[str, Any]] | None = None
) -> GgufFiles:
    """Sort a repository's GGUF files; the default variant comes first."""
    metadata = metadata or {}
    read = [read_name(f, metadata.get(f.path)) for f in sorted(files) if is_gguf(f.path)]
    read = _without_matrices(read)
    models = [each for each in read if each.kind == "model"]
    heads = [each for each in read if each.kind == "head"]
    problems: list[str] = []
    if heads and not models and not any(each.kind == "adapter" for each in read):
        problems.append(f"{heads[0].file.path} is a draft head, which goes with another model")
        models = heads
    variants, untyped = _variants(models, problems)
    projectors = [each for each in read if each.kind == "mmproj"]
    return GgufFiles(
        variants=tuple(sorted(variants, key=lambda v: default_order(v.name))),
        projectors=tuple(_variants(projectors, [], unnamed="mmproj")[0]),
        untyped=tuple(untyped),
        adapters=tuple(each.file for each in read if each.kind == "adapter"),
        heads=tuple(each.file for each in heads),
        problems=tuple(problems),
    )


def _kind(name: str, stem: str, found: str | None, metadata: Mapping[str, Any]) -> str:
    declared = {"adapter": "adapter", "imatrix": "imatrix", "mmproj": "mmproj"}
    if str(metadata.get("general.type")) in declared:
        return declared[str(metadata["general.type"])]
    lowered = name.lower()
    folders = stem.lower().split("/")[:-1]
    if metadata.get("general.type") == "model":
        return "model"
    if "mmproj" in lowered or "mmproj" in folders:
        return "mmproj"
    if _IMATRIX_AROUND.search(name) and (found is None or lowered.startswith("imatrix")):
        return "imatrix"
    if _HEAD.match(name) or (set(folders) & set(_HEADS)):
        return "head"
    if lowered.startswith("ggml-vocab"):
        return "vocab"
    return "model"


def _is_adapter(name: str, found: str | None, size: int | None) -> bool:
    return (
        _ADAPTER.search(name) is not None
        and "merge" not in name.lower()
        and found in _WIDE
        and (size or 0) < _LARGEST_ADAPTER
    )


def _type_of_folder(stem: str) -> str | None:
    for folder in reversed(stem.split("/")[:-1]):
        found = type_in(folder)
        if found:
            return found
    return None


def _without_matrices(read: list[GgufFile]) -> list[GgufFile]:
    """Tell importance matrices from models that were made with one: both are called so."""
    models = [each for each in read if each.kind == "model"]
    largest = max((each.file.size or 0 for each in models), default=0)
    kept: list[GgufFile] = []
    for each in read:
        size = each.file.size
        if each.kind == "imatrix" and (size or 0) > _LARGEST_IMATRIX and size != largest:
            kept.append(each._replace(kind="model"))
        elif each.kind == "model" and each.stem.lower().endswith("imatrix"):
            alone = all(other.stem.lower().endswith("imatrix") for other in models)
            small = size is not None and size * 20 < largest
            if small or (not alone and size is None and each.type in _WIDE):
                continue
            kept.append(each)
        elif each.kind not in ("imatrix", "vocab"):
            kept.append(each)
    return kept


def _variants(
    files: list[GgufFile], problems: list[str], unnamed: str = ""
) -> tuple[list[Variant], list[Variant]]:
    """The variants of models, and those without a type; of two with one name the first is it."""
    by_stem: dict[tuple[str, str, int], list[GgufFile]] = {}
    for each in files:
        by_stem.setdefault((each.type or unnamed, each.stem, each.parts), []).append(each)
    variants: dict[str, Variant] = {}
    untyped: list[Variant] = []
    order = sorted(by_stem, key=lambda key: (key[0], key[1].count("/"), key[2] > 1, key[1]))
    for name, stem, parts in order:
        group = sorted(by_stem[name, stem, parts], key=lambda each: each.part)
        missing = sorted(set(range(1, parts + 1)) - {each.part for each in group})
        if missing:
            problems.append(f"{stem}: part {missing[0]} of {parts} is not there")
        if group[0].pieces:
            problems.append(f"{stem}.gguf is in pieces, which have to be joined before use")
        variant = Variant(name or stem, tuple(each.file for each in group), bits_of(name))
        if not name:
            untyped.append(variant)
        elif name in variants:
            problems.append(
                f"{name} names two models: {variants[name].files[0].path} is taken, not "
                f"{variant.files[0].path}"
            )
        else:
            variants[name] = variant
    return list(variants.values()), untyped


def largest(variants: Iterable[Variant]) -> int:
    """Bytes of the largest variant whose size is known, else 0."""
    return max((total(variant.files) or 0 for variant in variants), default=0)
