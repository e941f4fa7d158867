"""What is known of a repository's files, and the format they turn out to have."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class File(NamedTuple):
    """One file of a repository; `size` in bytes, `None` where it is not known."""

    path: str
    size: int | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


class Description(NamedTuple):
    """A repository as it is described: everything but the weights themselves.

    Attributes:
        name: `org/name`, or a folder's name.
        files: what it holds, in any order.
        config: `config.json`; `None` where it is absent or its content is not known.
        other_files: small files by path: parsed JSON, or text.
        tags: the Hub's tags, its library among them.
        headers: safetensors headers by path (tensor → `{dtype, shape}`, `__metadata__`).
        gguf: GGUF metadata by path (`general.file_type`, `general.type`, …).
        branches: the repository's branches.
        parameters: how many weights it has, where the Hub or a header says so.
    """

    name: str = ""
    files: tuple[File, ...] = ()
    config: Mapping[str, Any] | None = None
    other_files: Mapping[str, Any] = {}
    tags: tuple[str, ...] = ()
    headers: Mapping[str, Mapping[str, Any]] = {}
    gguf: Mapping[str, Mapping[str, Any]] = {}
    branches: tuple[str, ...] = ()
    parameters: int | None = None

    def json_file(self, path: str) -> Mapping[str, Any] | None:
        """A small JSON file's object; `None` where it is absent, unknown or no object."""
        value = self.other_files.get(path)
        if isinstance(value, str | bytes):
            try:
                import json  # seldom needed, and a twentieth of `mdl resolve`

                value = json.loads(value)
            except (ValueError, RecursionError):
                return None
        return value if isinstance(value, Mapping) else None


class Finding(NamedTuple):
    """What one piece of evidence says of the weights.

    `method` is the library whose layout they have (`compressed-tensors`, `modelopt`); `bits` is
    what a quantized weight is stored in, without its scales; `also` names formats of a smaller
    share of the same weights.
    """

    format: str
    said: str
    variant: str = ""
    bits: float | None = None
    method: str = ""
    also: tuple[str, ...] = ()
    problem: str = ""


class Variant(NamedTuple):
    """One of a repository's alternatives, such as `Q4_K_M`: its files, the first to open first.

    Without files it is the whole repository, on `branch` where that is named.
    """

    name: str
    files: tuple[File, ...] = ()
    bits: float | None = None
    branch: str = ""

    @property
    def size(self) -> int | None:
        """Bytes of all its files, `None` where one is not known."""
        return total(self.files)

    def to_json(self) -> dict[str, Any]:
        return {
            "variant": self.name,
            "files": [{"path": file.path, "size": file.size} for file in self.files],
            "size": self.size,
            "bits_per_weight": self.bits,
        }


class Format(NamedTuple):
    """What a repository's weights are, and why that is believed.

    Attributes:
        format: one of the table's (`gguf`, `bnb-4bit`, …), `adapter`, or `None` without weights.
        variants: its alternatives, the default first.
        bits_per_weight: of the default variant.
        evidence: what shows the format, the strongest first.
        contradictions: what speaks against it, or does not fit together.
        also: other formats that the repository holds.
        runtimes: what loads it.
        method: the library whose layout the weights have, where the format leaves that open.
        projectors: vision projectors (`mmproj`) by precision, for GGUF.
        stored_bits_per_weight: bytes on the disk for each weight, times eight, where known.
        others: what else the repository holds, each with its own variants.
    """

    format: str | None
    variants: tuple[Variant, ...] = ()
    bits_per_weight: float | None = None
    evidence: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    method: str = ""
    projectors: tuple[Variant, ...] = ()
    stored_bits_per_weight: float | None = None
    others: tuple["Format", ...] = ()

    def of(self, format: str) -> "Format | None":
        """This format, or the other one of that name that the repository holds."""
        return next((each for each in (self, *self.others) if each.format == format), None)

    def variant(self, name: str) -> Variant | None:
        """The variant of this name in any casing, `4.25bpw` and `4_25` as `4.25`."""
        wanted = variant_key(name)
        return next((v for v in self.variants if variant_key(v.name) == wanted), None)

    def to_json(self) -> dict[str, Any]:
        """The object that `mdl inspect --json` prints."""
        return {
            "format": self.format,
            "variants": [variant.name for variant in self.variants],
            "bits_per_weight": self.bits_per_weight,
            "evidence": list(self.evidence),
            "contradictions": list(self.contradictions),
            "also": list(self.also),
            "runtimes": list(self.runtimes),
            "method": self.method or None,
            "stored_bits_per_weight": self.stored_bits_per_weight,
            "variant_files": [variant.to_json() for variant in self.variants if variant.files],
            "projectors": [projector.to_json() for projector in self.projectors],
            "others": [
                {"format": other.format, "variants": [variant.name for variant in other.variants]}
                for other in self.others
            ],
        }


def total(files: Iterable[File]) -> int | None:
    """Bytes of files, `None` where the size of one is not known."""
    sizes = [file.size for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def variant_key(name: str) -> str:
    """What variants are compared by: upper case, a bitrate as a number."""
    key = name.upper().removesuffix("BPW")
    try:
        return f"{float(key.replace('_', '.')):g}"
    except ValueError:
        return key


def number(value: Any) -> float | None:
    """A number as people write it: itself, a numeral, or the mean of a table by module."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, int | float):
        return float(value) if abs(value) < 1e6 and math.isfinite(value) else None
    if isinstance(value, Mapping):
        found = [n for each in value.values() if (n := number(each)) is not None]
        return sum(found) / len(found) if found else None
    return None
