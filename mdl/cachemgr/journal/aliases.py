"""Links in the cache root from one casing of a repository to another's folder."""

import os

from mdl.cachemgr.journal import fileops
from mdl.cachemgr.layout import parse_folder


def aliases_of(root: str) -> dict[str, list[str]]:
    """Folder name → the links in the root that point to it."""
    found: dict[str, list[str]] = {}
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_symlink() and parse_folder(entry.name):
                target = os.path.normpath(os.path.join(root, os.readlink(entry.path)))
                found.setdefault(os.path.relpath(target, root), []).append(entry.name)
    return found


def remove_dangling_aliases(root: str) -> None:
    """Remove links between casings whose folder is gone.

    Such a link makes every download in its spelling fail; `hf cache rm` of the folder leaves it.
    """
    for name, aliases in aliases_of(root).items():
        if parse_folder(name) and not os.path.lexists(os.path.join(root, name)):
            for alias in aliases:
                fileops.remove_file(os.path.join(root, alias))
