"""Formats as people ask for them: `gguf:Q4_K_M`, `awq`, `exl2:4.25`, `8bit`."""

from typing import NamedTuple

from mdl.errors import UsageError
from mdl.store import LOADABLE_FORMATS, STORED_FORMATS

_ALIASES = {
    "4bit": "bnb-4bit", "bnb": "bnb-4bit", "nf4": "bnb-4bit", "bnb-8bit": "8bit", "int8": "8bit",
    "bf16": "16bit", "fp16": "16bit", "float16": "16bit", "bfloat16": "16bit",
    "autoround": "auto-round", "ov": "openvino", "ct2": "ctranslate2",
}  # fmt: skip
_LONGEST_VARIANT = 40


class AskedFormat(NamedTuple):
    """A format and the variant of it that was asked for."""

    format: str
    variant: str | None = None

    @property
    def text(self) -> str:
        return f"{self.format}:{self.variant}" if self.variant else self.format


def parse_format(text: str) -> AskedFormat:
    """The format in `format[:variant]`, in any casing.

    Raises:
        UsageError: there is no such format, or no variant can have this name.
    """
    if not isinstance(text, str):
        raise UsageError(
            f"format={text!r} is not the name of a format.",
            next="Pass one as text, such as 'gguf:Q4_K_M', or None for the default.",
        )
    name, colon, variant = text.strip().partition(":")
    name = name.lower().replace("_", "-")
    format = _ALIASES.get(name, name)
    if format not in LOADABLE_FORMATS + STORED_FORMATS:
        raise UsageError(
            f"Unknown format {text!r}.",
            next=f"Use one of {', '.join(LOADABLE_FORMATS + STORED_FORMATS)}; "
            "with a variant, as in gguf:Q4_K_M.",
        )
    if colon and not is_variant(variant):
        raise UsageError(
            f"{variant!r} cannot be the name of a variant."
            if variant
            else f"{text!r} has no variant after its colon.",
            next="Write it as in gguf:Q4_K_M, or leave out the colon.",
        )
    if variant and format in ("16bit", "bnb-4bit", "8bit"):
        raise UsageError(f"{format} has no variants.", next=f"Ask for {format} alone.")
    return AskedFormat(format, variant or None)


def is_variant(text: str) -> bool:
    """Whether a text can be a variant's name, as in `gguf:Q4_K_M` or `org/repo:Q4_K_M`."""
    plain = text.isascii() and all(c.isalnum() or c in "._-" for c in text)
    return plain and 0 < len(text) <= _LONGEST_VARIANT and text[0].isalnum()
