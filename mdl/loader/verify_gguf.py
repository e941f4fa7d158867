"""Check GGUF files: header, number of split files, tensors within the file, hashes."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdl.errors import VerificationError
from mdl.folders import files_below
from mdl.formats import GgufHeader
from mdl.formatting import counted
from mdl.loader.checkpoint import check_hash, read_gguf_file

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


def gguf_names(folder: Path) -> list[str]:
    """The GGUF files of a folder and its subfolders, dangling links included."""
    return sorted(name for name in files_below(folder) if name.lower().endswith(".gguf"))


def with_siblings(path: Path) -> list[str]:
    """The names of a GGUF file and, of a split one, of the others in its folder."""
    if not _SPLIT.search(path.name):
        return [path.name]
    stem = _SPLIT.sub("", path.name)
    return sorted(each.name for each in path.parent.iterdir()
                  if _SPLIT.search(each.name) and _SPLIT.sub("", each.name) == stem)  # fmt: skip


def check_gguf(folder: Path, names: Iterable[str]) -> Iterator[tuple[bool, str]]:
    """(passed, what was checked) for each file, and for each model in several."""
    split: dict[str, dict[str, GgufHeader]] = {}
    for name in names:
        path = folder / name
        if not path.exists():
            yield False, f"{name} is missing"
            continue
        try:
            header = read_gguf_file(path)
        except VerificationError as error:
            yield False, f"{error.message} {error.why}"
            continue
        yield True, f"{name}: header and {counted(len(header.tensors), 'tensor')}"
        yield check_hash(folder, name)
        if _SPLIT.search(name) or int(header.metadata.get("split.count") or 1) > 1:
            split.setdefault(_SPLIT.sub("", name), {})[name] = header
    for stem, headers in split.items():
        yield _check_split(stem, headers)


def _check_split(stem: str, headers: dict[str, GgufHeader]) -> tuple[bool, str]:
    """Whether all files of a split model are there, by what the first says of them."""
    name, first = next(iter(headers.items()))
    named = _SPLIT.search(name)
    count = int(first.metadata.get("split.count") or (named[2] if named else 1))
    if named and int(named[2]) != count:
        return False, f"{name} is one of {count} files by its header, not of {int(named[2])}"
    here = {int(header.metadata.get("split.no") or 0) for header in headers.values()}
    missing = sorted(set(range(count)) - here)
    if missing:
        return False, f"{stem}: file {missing[0] + 1} of {count} is missing"
    tensors = sum(len(header.tensors) for header in headers.values())
    total = first.metadata.get("split.tensors.count", tensors)
    return tensors == total, f"{stem}: {count} files with {tensors} of {total} tensors"
