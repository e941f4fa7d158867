"""Read the mapping table of the `unsloth` package as data: parsed with `ast`, never executed.

The table (`unsloth/models/mapper.py`, Apache-2.0) has a row for each model family: the 4-bit
repository, its float repositories, sometimes fp8 ones. `unsloth/models/loader_utils.py` lists bad
mirrors. What Unsloth derives from the table at import becomes mirror rows here; where two families
claim a name the later one wins, as there.

Run as a module it writes the packaged catalogue: `make catalog UNSLOTH=path/of/unpacked/wheel`.
"""

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mdl.errors import NotFoundError, UsageError
from mdl.formats import claimed_format
from mdl.store import BadMirror, CatalogSource, MirrorRow

_TABLE = "__INT_TO_FLOAT_MAPPER"
_UNGATED = "MAP_TO_UNSLOTH_16bit"
_BAD = "BAD_MAPPINGS"
_BEHIND = 100  # rank of mirrors that come after all others
# What the table does not say. OpenAI published gpt-oss in MXFP4, and Unsloth's copies have that.
_MXFP4 = re.compile(r"(?:openai|unsloth)/gpt-oss-(?:safeguard-)?\d+b", re.IGNORECASE)
# 4-bit mixtures whose experts are packed one by one (`mdl.formats.experts`), and what loads them:
# gpt-oss has the tensors of Unsloth's own class (`mlp.experts.gate_up_projs.0.weight.absmax`); the
# others those of transformers 4 (`mlp.experts.0.gate_proj.weight.absmax`), which saved them.
_APART = (
    (re.compile(r"unsloth/gpt-oss-\d+b-unsloth-bnb-4bit", re.IGNORECASE), "unsloth"),
    (re.compile(r"unsloth/(?:Mixtral-8x7B|Qwen3-\d+B-A\d+B)-.*bnb-4bit", re.IGNORECASE),
     "unsloth vllm"),
)  # fmt: skip


class Family(NamedTuple):
    """One row of the table: a 4-bit repository and what it was made from."""

    quantized: str
    floats: tuple[str, ...]
    fp8: tuple[str, str | None, str | None] | None  # (official, block scaled, row scaled)


class UnslothTable(NamedTuple):
    """What was read, and the hash of its text."""

    families: tuple[Family, ...]
    ungated: tuple[tuple[str, str], ...]  # (gated name, its ungated mirror)
    bad: tuple[BadMirror, ...]
    version: str
    sha256: str


def read_unsloth(
    mapper: Path | None = None, loader_utils: Path | None = None
) -> tuple[CatalogSource, list[MirrorRow], tuple[BadMirror, ...]]:
    """The table of the installed package, or of the files given, as catalogue rows.

    Args:
        mapper: unsloth's `mapper.py`.
        loader_utils: its `loader_utils.py`; by default the one beside `mapper`, if there is one.

    Raises:
        NotFoundError: unsloth is not installed, or a file does not exist.
        UsageError: a file is not Python, or does not contain the table.
    """
    if mapper is None:
        table = read_table(*find_package())
        return source_of(table), rows_of(table), table.bad
    beside = mapper.with_name("loader_utils.py")
    table = read_table(mapper, loader_utils or (beside if beside.exists() else None), "")
    source = source_of(table)._replace(version=table.sha256[:12], origin=str(mapper))
    return source, rows_of(table), table.bad


def find_package() -> tuple[Path, Path, str]:
    """The installed package's two files and its version, without importing it.

    Raises:
        NotFoundError: unsloth is not installed.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution("unsloth")
    except PackageNotFoundError:
        raise NotFoundError(
            "The package unsloth is not installed.",
            next="Give its mapper.py: mdl catalog import unsloth --mapper PATH.",
        ) from None
    folder = Path(str(found.locate_file("unsloth"))) / "models"
    return folder / "mapper.py", folder / "loader_utils.py", found.version


def read_table(mapper: Path, loader_utils: Path | None, version: str) -> UnslothTable:
    """Read both files.

    Raises:
        NotFoundError: a file does not exist.
        UsageError: a file is not Python, or does not contain the table.
    """
    text = _read(mapper)
    tree = _parse(text, mapper)
    table = _assigned(tree, _TABLE)
    if not isinstance(table, ast.Dict):
        raise UsageError(
            f"{mapper} contains no mapping table.",
            why=f"there is no dictionary {_TABLE} in it",
            next="Give unsloth/models/mapper.py, from the package or its repository.",
        )
    try:
        literal = ast.literal_eval(table)
        families = tuple(_family(key, values) for key, values in literal.items())
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError) as error:
        raise UsageError(
            f"The mapping table in {mapper} is not plain data, or has an unknown shape.",
            why=str(error),
            next="Nothing was imported. A newer mdl may support it.",
        ) from error
    bad_text = _read(loader_utils) if loader_utils is not None and loader_utils.exists() else ""
    return UnslothTable(
        families=families,
        ungated=tuple(_aliases(tree)),
        bad=tuple(_bad_mirrors(bad_text, loader_utils)) if bad_text else (),
        version=version,
        sha256=hashlib.sha256((text + bad_text).encode()).hexdigest(),
    )


def rows_of(table: UnslothTable) -> list[MirrorRow]:
    """The table as catalogue rows, sorted; ranks count from 0 within a name and a format."""
    claims: dict[tuple[str, str], list[MirrorRow]] = {}
    for family in table.families:
        for key, rows in _claims(family).items():
            # A later family's claims come before an earlier one's.
            claims[key] = rows + claims.get(key, [])
    for name, mirror in table.ungated:
        row = _row(name, "16bit", mirror, "ungated")
        claims.setdefault((name.lower(), "16bit"), []).insert(0, row)
    return [row for key in sorted(claims) for row in _ranked(claims[key])]


def source_of(table: UnslothTable, name: str = "unsloth") -> CatalogSource:
    return CatalogSource(
        name=name,
        version=table.version,
        origin=f"unsloth {table.version}, unsloth/models/mapper.py and loader_utils.py",
        sha256=table.sha256,
        licence="Apache-2.0",
    )


def _claims(family: Family) -> dict[tuple[str, str], list[MirrorRow]]:
    found: dict[tuple[str, str], list[MirrorRow]] = {}

    def claim(name: str, format: str, repo_id: str | None, variant: str) -> None:
        if repo_id is None or (format == "bnb-4bit" and _MXFP4.fullmatch(repo_id)):
            return  # MXFP4 is not converted to another four bits
        if repo_id.lower() != name.lower():
            found.setdefault((name.lower(), format), []).append(
                _row(name, format, repo_id, variant)
            )

    quantized = family.quantized
    fp8 = [name for name in family.fp8 or () if name is not None]
    if fp8:
        fp8.append(f"{fp8[0]}-dynamic")  # a name that Unsloth's tables know too
    members = (quantized, *family.floats, *fp8)
    # Some rows have a second 4-bit repository among the float ones, some a 16-bit one in place
    # of the 4-bit one (to be quantized on load); the names tell.
    floats = [name for name in family.floats if not claimed_format(name)] or [family.floats[0]]
    official = floats[1] if len(floats) > 1 else floats[0]
    for name in members[1:]:
        claim(name, "bnb-4bit", quantized, "dynamic" if _is_dynamic(quantized) else "plain")
        for second in filter(_is_4bit, family.floats):
            claim(name, "bnb-4bit", second, "plain")
    for name in members:
        if claimed_format(name) in (None, "16bit"):
            continue
        claim(name, "16bit", floats[0], "float")
    if floats[0].startswith("unsloth"):
        claim(official, "16bit", floats[0], "ungated")
    elif not claimed_format(quantized) and not quantized.lower().endswith("-bf16"):
        claim(quantized, "16bit", floats[0], "ungated")
    for name in members:
        claim(name, "16bit", official, "official")
    if family.fp8 is not None:
        _, block, row = family.fp8
        for name in members:
            claim(name, "fp8", block, "block")
            claim(name, "fp8", row, "row")
    return found


def _ranked(rows: list[MirrorRow]) -> Iterator[MirrorRow]:
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if (row.repo_id.lower(), row.variant) not in seen:
            rank = len(seen) + (_BEHIND if row.variant == "official" else 0)
            seen.add((row.repo_id.lower(), row.variant))
            yield row._replace(rank=rank)


def _row(name: str, format: str, repo_id: str, variant: str) -> MirrorRow:
    published = "mxfp4" if _MXFP4.fullmatch(repo_id) else "16bit"
    return MirrorRow(
        name=name,
        format=format,
        repo_id=repo_id,
        weights=claimed_format(repo_id) or published,
        variant=variant,
        rank=0,
        relation="declared",
        source="unsloth",
        runtimes=next((loads for named, loads in _APART if named.fullmatch(repo_id)), None),
    )


def _is_4bit(name: str) -> bool:
    return claimed_format(name) == "bnb-4bit"


def _is_dynamic(name: str) -> bool:
    return name.lower().endswith("-unsloth-bnb-4bit")


def _family(key: str, values: Any) -> Family:
    fp8 = None
    if isinstance(values, dict):
        fp8 = values.get("8")
        if fp8 is not None and len(fp8) != 3:
            raise ValueError(f"{key}: three fp8 names were expected")
        values = values["16"]
    names = tuple(values)
    if not names or not all(isinstance(name, str) for name in (key, *names)):
        raise ValueError(f"{key}: names were expected")
    return Family(key, names, tuple(fp8) if fp8 else None)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(
            f"{path} cannot be read.",
            why=str(error),
            next="Give the path of unsloth/models/mapper.py, or of loader_utils.py.",
        ) from error


def _parse(text: str, path: Path) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is not Python.",
            why=str(error),
            next="Nothing was imported. Download the file again.",
        ) from error


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            return node.value
    return None


def _aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Single names added after the table: `_add_with_lower(MAP_TO_UNSLOTH_16bit, "a", "b")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) == 3:
            target, name, mirror = node.args
            if (
                isinstance(target, ast.Name)
                and target.id == _UNGATED
                and isinstance(name, ast.Constant)
                and isinstance(mirror, ast.Constant)
            ):
                yield str(name.value), str(mirror.value)


def _bad_mirrors(text: str, path: Path | None) -> Iterator[BadMirror]:
    table = _assigned(_parse(text, path or Path("loader_utils.py")), _BAD)
    if not isinstance(table, ast.Dict):
        return
    reasons = _comments(text)
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Call) and isinstance(key.func, ast.Attribute):
            key = key.func.value  # "Name".lower()
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
            replacement = str(value.value)
            yield BadMirror(
                repo_id=str(key.value),
                replacement=replacement,
                replacement_format=claimed_format(replacement) or "16bit",
                reason=reasons.get(value.lineno, "listed as a bad mapping by unsloth"),
                source="unsloth",
            )


def _comments(text: str) -> dict[int, str]:
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = token.string.lstrip("# ").strip()
    return found


def main(arguments: list[str]) -> None:
    """Write the packaged catalogue from an unpacked wheel."""
    from mdl.store import write_packaged

    (folder,) = map(Path, arguments)
    info = next(folder.glob("unsloth-*.dist-info")).name
    models = folder / "unsloth" / "models"
    version = info.removeprefix("unsloth-").removesuffix(".dist-info")
    table = read_table(models / "mapper.py", models / "loader_utils.py", version)
    rows = rows_of(table)
    write_packaged(source_of(table), rows, list(table.bad))
    print(f"{len(rows)} rows, {len(table.bad)} bad mirrors, unsloth {version}")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
