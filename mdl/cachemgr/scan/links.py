"""Links out of a repository folder: people move repositories, blobs or files to a larger disk.

A link is followed where whoever made it could have put the content there instead: it is the user's
own, or root's, or what it leads to belongs to the same owner. Reading follows; removing never does.
"""

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from mdl.cachemgr.layout import parse_folder
from mdl.cachemgr.scan.model import Blob, content_path


class OutsideFile(NamedTuple):
    """A plain file that a link leads to; `path` is its real one."""

    path: str
    status: os.stat_result


def alias_target(root: str, name: str) -> str | None:
    """The sibling folder an alias leads to, one hop, or `None`."""
    target = os.readlink(os.path.join(root, name))
    leaf = os.path.basename(os.path.normpath(target))
    if os.path.normpath(os.path.join(root, target)) != os.path.normpath(os.path.join(root, leaf)):
        return None
    try:
        is_folder = stat.S_ISDIR(os.lstat(os.path.join(root, leaf)).st_mode)
    except OSError:
        return None
    return leaf if is_folder and parse_folder(leaf) else None


def follow_folder(path: str) -> str | None:
    """The real path of the folder that a link leads to; `None` for one that is not followed.

    A folder that the link stands in would be read for ever.
    """
    try:
        real = os.path.realpath(path, strict=True)
        if not stat.S_ISDIR(os.stat(real).st_mode) or not _may_follow(path, real):
            return None
    except OSError:
        return None
    where = os.path.realpath(os.path.dirname(path))
    return None if f"{where}/".startswith(f"{real.rstrip('/')}/") else real


def follow_file(path: str) -> OutsideFile | None:
    """The plain file that a link leads to; `None` for one that is not followed."""
    try:
        real = os.path.realpath(path, strict=True)
        status = os.stat(real)
        if stat.S_ISREG(status.st_mode) and _may_follow(path, real):
            return OutsideFile(real, status)
    except OSError:
        pass
    return None


def as_outside(root: str, folder: str, blobs: Mapping[str, Blob]) -> dict[str, Blob]:
    """The blobs of a folder with a link in it, as files that no cache owns."""
    found = dict(blobs)
    for name, blob in blobs.items():
        if blob.inode[0] != "outside":
            inode = ("outside", content_path(root, folder, blob))
            found[name] = blob._replace(inode=inode, links=1)
    return found


def _may_follow(link: str, target: str) -> bool:
    if not hasattr(os, "geteuid"):  # Windows, where making links takes a right of its own
        return True
    maker = os.lstat(link).st_uid
    return maker in (0, os.geteuid()) or maker == os.stat(target).st_uid
