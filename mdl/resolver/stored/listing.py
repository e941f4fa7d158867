"""What is known of a repository's files: from the Hub's listing, the database or the disk."""

import json
import time
from collections.abc import Sequence
from typing import NamedTuple

from mdl.formats import (
    Description,
    File,
    Format,
    ModelShape,
    Variant,
    catalogue_format,
    runtimes_of,
    shape_of,
    shape_of_gguf,
    variant_key,
)
from mdl.resolver.types import RepoInfo
from mdl.store import Mirrors, VariantRow

PROJECTOR = "mmproj"


class Listing(NamedTuple):
    """A repository's facts and the format of its files.

    `complete` says that sizes are known and the whole repository was looked at; a row of the model
    tree, or one variant out of the database, is enough to choose by and not to fetch by.
    """

    info: RepoInfo
    format: Format
    complete: bool = True
    downloads: int = 0
    description: Description = Description()
    stored_bytes: int | None = None  # of the weights, as the database has it

    @property
    def repo_id(self) -> str:
        return self.info.repo_id

    @property
    def key(self) -> str:
        return self.info.repo_id.lower()

    @property
    def formats(self) -> tuple[str, ...]:
        """Every format it holds, its main one first, in the catalogue's words."""
        found = (self.format.format, *(other.format for other in self.format.others))
        return tuple(catalogue_format(name) for name in found if name)

    @property
    def has_sizes(self) -> bool:
        return all(file.size is not None for file in self.description.files)

    def weight_bytes(self, variant: Variant) -> int | None:
        """Bytes of a variant's weights; those of the whole repository where it has no files."""
        return variant.size if variant.files else self.whole_bytes

    @property
    def whole_bytes(self) -> int | None:
        """Bytes of the repository's weights; `None` where a size is not known."""
        files = [f for f in self.description.files if f.path.endswith((".safetensors", ".bin"))]
        sizes = [file.size for file in files]
        if not sizes:
            return self.stored_bytes
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def shape(self) -> ModelShape | None:
        """What the KV cache depends on; `None` where no header or configuration was read."""
        shapes = (shape_of_gguf(head) for head in self.description.gguf.values())
        found = next((shape for shape in shapes if shape is not None), None)
        return found or shape_of(self.description.config or {})

    def of(self, format: str) -> Format | None:
        """What it holds in a format of the catalogue's words."""
        for each in (self.format, *self.format.others):
            if each.format and catalogue_format(each.format) == format:
                return each
        return None


class FamilyRows(NamedTuple):
    """A base model, the catalogue's rows of what is made from it, and each one's listing by key."""

    base: str
    mirrors: Mirrors
    listings: dict[str, Listing | None]


def to_rows(listing: Listing) -> list[VariantRow]:
    """A listing as the database keeps it."""
    now = time.time()
    rows = []
    for found in (listing.format, *listing.format.others):
        if found.format is None:
            continue
        named: Sequence[Variant] = found.variants or (Variant("", (), found.bits_per_weight),)
        groups = [(catalogue_format(found.format), named), (PROJECTOR, found.projectors)]
        rows += [
            VariantRow(
                format, each.name, variant_key(each.name), each.bits,
                each.size if each.files or each.branch else listing.whole_bytes,
                json.dumps([list(file) for file in each.files]), found.method, each.branch,
                listing.info.commit, now,
            )
            for format, variants in groups
            for each in variants
        ]  # fmt: skip
    return rows


def from_rows(info: RepoInfo, rows: Sequence[VariantRow], *, complete: bool = True) -> Listing:
    """The listing behind a repository's rows; its main format is that of the first of them."""
    formats: dict[str, list[VariantRow]] = {}
    for row in rows:
        formats.setdefault(row.format, []).append(row)
    projectors = tuple([_variant(row) for row in formats.pop(PROJECTOR, ())])
    names = list(formats)
    if info.format in formats:
        names.sort(key=lambda name: name != info.format)
    others: tuple[Format, ...] = ()
    for name in reversed(names):
        group = formats[name]
        found = Format(
            name,
            tuple([_variant(row) for row in group if row.variant]),
            group[0].bits,
            (f"{info.repo_id} was recognised as {name} before",),
            runtimes=runtimes_of(name, group[0].method),
            method=group[0].method,
            projectors=projectors if name == "gguf" else (),
            others=others if name == names[0] else (),
        )
        others = (found, *others)
    if not names:
        return Listing(info, Format(None), complete)
    whole = [row.size for row in rows if row.files == "[]" and not row.branch]
    return Listing(info, found, complete, stored_bytes=whole[0] or None if whole else None)


def _variant(row: VariantRow) -> Variant:
    files = tuple([File(*file) for file in json.loads(row.files)])
    return Variant(row.variant, files, row.bits, row.branch)
