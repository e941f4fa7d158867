"""Repositories and revisions in the cache, for completion on the command line."""

import os
from collections.abc import Iterator
from pathlib import Path

from mdl.cachemgr.layout import parse_folder, root_id
from mdl.settings import Settings
from mdl.store import indexed_folders


def cached_names(
    settings: Settings, root: Path | None = None, part: str = ""
) -> list[tuple[str, str]]:
    """`(repo_type, repo_id)` of what is in the cache, by its index or, without one, its listing.

    With `part` only names that contain it, in any casing.
    """
    place = Path(root or settings.cache_root)
    folders = indexed_folders(Path(settings.home, "cache", f"{root_id(place)}.db"))
    if not folders and place.is_dir():
        folders = os.listdir(place)
    mark = part.replace("/", "--").casefold()
    return sorted(filter(None, (parse_folder(f) for f in folders if mark in f.casefold())))


def cached_revisions(root: Path, repo_id: str) -> list[str]:
    """Branches, tags and commits of a repository in the cache, in whatever casing it is there."""
    found: dict[str, None] = {}
    for entry in sorted(os.listdir(root)) if root.is_dir() else ():
        parsed = parse_folder(entry)
        if parsed is not None and parsed[1].casefold() == repo_id.casefold():
            found |= dict.fromkeys(_refs(root / entry / "refs"))
            snapshots = root / entry / "snapshots"
            found |= dict.fromkeys(sorted(os.listdir(snapshots)) if snapshots.is_dir() else ())
    return list(found)


def _refs(folder: Path) -> Iterator[str]:
    for place, _, files in os.walk(folder):
        for name in sorted(files):
            yield Path(place, name).relative_to(folder).as_posix()
