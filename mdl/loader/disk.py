"""Free disk space, and folders that may not exist yet."""

import os
import shutil
from pathlib import Path

from mdl.errors import DiskError
from mdl.formatting import human_size
from mdl.settings import StrPath

RESERVE = 64 << 20  # bytes of the disk that a download leaves free


def nearest_existing(folder: StrPath) -> Path:
    """The folder, or its nearest parent that exists."""
    found = Path(folder)
    while not found.exists():
        found = found.parent
    return found


def free_space(folder: StrPath) -> int:
    """Bytes free on the disk that holds the folder, or will hold it."""
    return shutil.disk_usage(nearest_existing(folder)).free


def check_space(folder: StrPath, needed: int, *, cache: bool = True) -> None:
    """Reject a download that would fill the disk.

    Args:
        needed: bytes to write.
        cache: whether the folder is the cache, which can be pruned.

    Raises:
        DiskError: the disk has fewer free bytes than `needed` plus `RESERVE`.
    """
    free = free_space(folder)
    if needed and needed + RESERVE > free:
        raise disk_too_small(folder, free, needed, cache=cache)


def disk_too_small(folder: StrPath, free: int, needed: int, *, cache: bool = True) -> DiskError:
    """The error for writing `needed` bytes to a disk with `free` bytes left."""
    prune = " (`mdl cache prune --dry-run` shows what can go)" if cache else ""
    elsewhere = "set HF_HUB_CACHE to" if cache else "name a --local-dir on"
    return DiskError(
        f"Not enough disk space for {folder}: {human_size(free)} free, {human_size(needed)} to "
        "write.",
        why=f"{human_size(RESERVE)} of the disk must stay free.",
        next=f"Free some space{prune}, or {elsewhere} another disk.",
        details={"free": free, "needed": needed},
    )


def make_parent(target: Path) -> None:
    """Create the folder that a report will be written to.

    Raises:
        DiskError: it cannot be created or written to, or `target` itself is a folder.
    """
    why = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            why = "It is a folder."
        elif not os.access(target.parent, os.W_OK):
            why = f"{target.parent} is not writable."
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise DiskError(f"Cannot write {target}.", why=why, next="Choose another file.")
