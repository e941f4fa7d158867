"""The catalogue as a file to write and share: TOML, JSON or CSV, a row for each mirror."""

import contextlib
import csv
import hashlib
import io
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mdl.errors import MdlError, NotFoundError, UsageError
from mdl.formats import RUNTIMES, claimed_format
from mdl.resolver.names import parse_name, shown
from mdl.store import (
    FORMATS,
    LOADABLE_FORMATS,
    STORED_FORMATS,
    USER,
    Catalog,
    CatalogSource,
    MirrorRow,
)

FIELDS = ("name", "format", "repo_id", "weights", "variant", "rank", "relation", "runtimes")
HIGHEST_RANK = 1_000_000
_ASKABLE = (*LOADABLE_FORMATS, *STORED_FORMATS)
_MAX_VARIANT = 40
_REQUIRED = ("name", "repo_id")
_SHAPE = "Nothing was imported. `mdl catalog export` writes a file of the right shape."


def mirror_row(
    name: str,
    repo_id: str,
    format: str | None = None,
    weights: str | None = None,
    variant: str = "",
    rank: int = 0,
    relation: str = "declared",
    runtimes: str | None = None,
) -> MirrorRow:
    """A checked row. By default `weights` is what the mirror's name claims, and so is `format`.

    Raises:
        NameRefusedError: no repository can have that name.
        UsageError: an unknown format or rank, or a repository that is its own mirror.
    """
    checked = [parse_name(text, allow_local=False).text for text in (name, repo_id)]
    if checked[0].lower() == checked[1].lower():
        raise UsageError(
            f"{checked[0]} cannot be its own mirror.",
            next="Name another repository; one that already has the format needs no row.",
        )
    claimed = claimed_format(checked[1]) or (format if format in FORMATS else "16bit")
    weights = weights or claimed
    format = format or weights
    if format not in _ASKABLE:
        raise UsageError(
            f"{format!r} is not a format to ask for.", next=f"Use one of {', '.join(_ASKABLE)}."
        )
    if weights not in FORMATS:
        raise UsageError(f"Unknown weights {weights!r}.", next=f"Use one of {', '.join(FORMATS)}.")
    converted = weights == "16bit" and format in LOADABLE_FORMATS
    published = format == "16bit" and weights == "mxfp4"  # and has no wider weights
    if weights != format and not converted and not published:
        raise UsageError(
            f"{weights} weights cannot be loaded as {format}.",
            next=f"Give {format} weights"
            + (" or 16bit ones, to quantize on load." if format in LOADABLE_FORMATS else "."),
        )
    number = _rank(rank)
    if relation not in ("declared", "verified"):
        raise UsageError(f"Unknown relation {relation!r}.", next="Use declared or verified.")
    if not isinstance(variant, str) or not variant.isprintable() or len(variant) > _MAX_VARIANT:
        raise UsageError(
            f"{shown(str(variant))} is not a variant.",
            next="Give a word, such as dynamic or plain.",
        )
    if unknown := set(str(runtimes or "").split()) - set(RUNTIMES):
        raise UsageError(
            f"{shown(min(unknown))} is not a runtime.", next=f"Use {', '.join(RUNTIMES)}."
        )
    return MirrorRow(checked[0], format, checked[1], weights, variant, number, relation, "user",
                     runtimes=runtimes)  # fmt: skip


def _rank(given: Any) -> int:
    """A rank within the database's bounds; text in CSV."""
    if isinstance(given, int | str) and not isinstance(given, bool):
        with contextlib.suppress(ValueError):
            if abs(rank := int(given)) <= HIGHEST_RANK:
                return rank
    raise UsageError(
        f"{shown(str(given))} is not a rank.",
        next=f"Give a whole number up to {HIGHEST_RANK:,}; 0 comes first.",
    )


def rows_to_remove(
    catalog: Catalog, name: str, mirror: str | None = None, source: str = USER
) -> list[MirrorRow]:
    """One source's rows for a name, or only the one with that mirror.

    Raises:
        NotFoundError: there are none.
    """
    rows = [
        row
        for row in catalog.mirrors(name=name, source=source)
        if row.name.lower() == name.lower()
        and (mirror is None or row.repo_id.lower() == mirror.lower())
    ]
    if not rows:
        which = f"{shown(name)} with {shown(mirror)}" if mirror else shown(name)
        raise NotFoundError(
            f"There is no row of source {source!r} for {which}.",
            next="`mdl catalog show NAME` lists a name's rows and their sources.",
        )
    return rows


def read_catalog_file(path: Path) -> tuple[CatalogSource, list[MirrorRow]]:
    """Read and check a file; one bad row refuses all of it.

    Raises:
        NotFoundError: the file does not exist.
        UsageError: it cannot be parsed, or a row is wrong; the error names the row.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{path} cannot be read.",
            why=error.strerror or str(error),
            next="Give the path of a .toml, .json or .csv file, as `mdl catalog export` writes it.",
        ) from error
    return parse_catalog_file(data, path)


def parse_catalog_file(data: bytes, path: Path) -> tuple[CatalogSource, list[MirrorRow]]:
    """`read_catalog_file` for given content; the path's name becomes the source's.

    Raises:
        UsageError: it cannot be parsed, or a row is wrong; the error names the row.
    """
    try:
        records = list(_records(path.suffix.lower(), data.decode()))
    except (ValueError, RecursionError, csv.Error) as error:  # ValueError: each parser's own
        raise UsageError(
            f"{path} is not valid {path.suffix.lstrip('.').upper()}.",
            why=str(error),
            next=_SHAPE,
        ) from error
    rows = [_row_of(record, f"{path}, row {n}") for n, record in enumerate(records, start=1)]
    if not rows:
        raise UsageError(f"{path} has no rows.", next="Put them under `mirrors`.")
    digest = hashlib.sha256(data).hexdigest()
    return CatalogSource(f"file:{path.name}", digest[:12], path.name, digest, ""), rows


def catalog_text(rows: Iterable[MirrorRow], kind: str) -> str:
    """The rows as `toml`, `json` or `csv`; parsing the text gives the same rows."""
    records = [
        {field: value for field in FIELDS if (value := getattr(row, field)) is not None}
        for row in rows
    ]
    if kind == "json":
        return json.dumps({"mirrors": records}, indent=1) + "\n"
    if kind == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()
    # Strings and numbers in JSON are valid TOML.
    return "\n".join(
        "[[mirrors]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in record.items())
        for record in records
    )


def _records(suffix: str, text: str) -> Iterable[Any]:
    if suffix == ".csv":
        return csv.DictReader(io.StringIO(text), strict=True)
    if suffix not in (".toml", ".json"):
        raise UsageError(
            f"{suffix or 'A file without an extension'} is not a kind of catalogue file.",
            next="Use .toml, .json or .csv.",
        )
    content = tomllib.loads(text) if suffix == ".toml" else json.loads(text)
    rows = content.get("mirrors", []) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UsageError("`mirrors` is not a list of rows.", next=_SHAPE)
    return rows


def _row_of(record: Any, where: str) -> MirrorRow:
    if not isinstance(record, Mapping):
        raise UsageError(f"{where}: a row must be a table of fields.", next=_SHAPE)
    unknown = sorted(str(key) for key in set(record) - set(FIELDS))
    missing = [field for field in _REQUIRED if not record.get(field)]
    if unknown or missing:
        what = f"unknown fields {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
        raise UsageError(f"{where}: {what}.", next=f"The fields are {', '.join(FIELDS)}.")
    given = {key: value for key, value in record.items() if value not in (None, "")}
    if not all(isinstance(given[field], str) for field in _REQUIRED):
        raise UsageError(f"{where}: name and repo_id must be strings.", next=_SHAPE)
    try:
        return mirror_row(**given)
    except MdlError as error:
        raise UsageError(f"{where}: {error.message}", why=error.why, next=error.next) from error
