"""Variants without files of their own: a bitrate, a branch, a folder, a precision."""

import re
from collections.abc import Iterable

from mdl.formats.quant_readers import bitrate
from mdl.formats.types import Description, File, Finding, Variant, number

_BRANCH = re.compile(
    r"(\d{1,2}(?:[._]\d{1,3})?)[-_]?(?:bpw)?(?:[-_.]?h[bB]?\d+)?(?:[-_][a-z]\w*)?", re.IGNORECASE
)


def stated_variants(description: Description, finding: Finding) -> tuple[Variant, ...]:
    """The variants of weights that a configuration describes: what it says, and the branches."""
    own = Variant(finding.variant, (), finding.bits) if finding.variant else None
    others = branch_variants(description) if finding.format in ("exl2", "exl3") else ()
    if own is None and finding.format in ("exl2", "exl3"):
        rate = re.search(r"(\d+(?:[._]\d+)?)[-_]?bpw", description.name, re.IGNORECASE)
        bits = number(rate[1].replace("_", ".")) if rate else None
        own = Variant(bitrate(bits), (), bits) if bits else None
    listed = [own] if own else []
    return (*listed, *(each for each in others if own is None or each.name != own.name))


def branch_variants(description: Description) -> tuple[Variant, ...]:
    """A variant for each branch called after a bitrate, the highest first.

    The card's links name the branches where they were not listed.
    """
    names = set(description.branches)
    card = description.other_files.get("README.md")
    if isinstance(card, str) and description.name:
        own = re.escape(description.name)
        names.update(re.findall(rf"{own}/tree/([A-Za-z0-9._-]+)", card))
    folders: dict[str, list[File]] = {}
    for file in sorted(description.files):
        if file.path.endswith(".safetensors") and "/" in file.path:
            folders.setdefault(file.path.partition("/")[0], []).append(file)
    found: dict[str, Variant] = {}
    for name in sorted({*names, *folders}):
        match = _BRANCH.fullmatch(name)
        bits = number(match[1].replace("_", ".")) if match else None
        if bits is not None and 1.0 <= bits <= 8.0:
            rate = bitrate(bits)
            branch = name if name in names else ""
            found.setdefault(rate, Variant(rate, tuple(folders.get(name, ())), bits, branch))
    return tuple(sorted(found.values(), key=lambda variant: -(variant.bits or 0.0)))


def openvino_variants(description: Description, files: Iterable[File]) -> tuple[Variant, ...]:
    """OpenVINO's precision: `openvino_config.json`, else the name."""
    table = description.json_file("openvino_config.json") or {}
    nested = table.get("quantization_config")
    dtype = str(table.get("dtype") or "")
    if not dtype and isinstance(nested, dict):
        bits = number(nested.get("bits"))
        dtype = f"int{bits:g}" if bits else ""
    named = re.search(
        r"(?<![a-z0-9])(int4|int8|fp16|fp32|nf4)(?![a-z0-9])", description.name.lower()
    )
    name = dtype or (named[1] if named else "")
    if not name:
        return ()
    digits = re.search(r"\d+", name)
    return (Variant(name, tuple(sorted(files)), float(digits[0]) if digits else None),)
