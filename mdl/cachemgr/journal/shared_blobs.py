"""huggingface_hub's cache-wide blob store, and its protocol.

`blobs/<2 hex>/<xet hash>` is a payload; `<xet hash>.refs` lists the repository blobs that link to
it, one per line; `<xet hash>.lock` is flocked around every change. A line is appended and synced
before its link appears, so that every link has its line.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

from mdl.cachemgr.journal import fileops
from mdl.cachemgr.journal.locks import lock_waiting
from mdl.cachemgr.scan import read_small

MANIFEST = ".refs"
_MAX_MANIFEST = 64 * 2**20


def payload_path(root: str, xet_hash: str) -> str:
    return os.path.join(root, "blobs", xet_hash[:2], xet_hash)


@contextlib.contextmanager
def payload_lock(payload: str) -> Iterator[None]:
    """Hold the lock under which a payload is published, linked and collected."""
    path = f"{payload}.lock"
    fileops.make_folder(os.path.dirname(path))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        lock_waiting(fd, path)
        yield
    finally:
        os.close(fd)


def add_reference(payload: str, line: str) -> None:
    """Add a blob to a payload's manifest, unless it is listed already."""
    with payload_lock(payload):
        append_reference(payload, line)


def append_reference(payload: str, line: str) -> None:
    """`add_reference`, for callers that hold the payload's lock."""
    if line not in (references(payload) or ()):
        fileops.append_line(f"{payload}{MANIFEST}", f"{line}\n".encode())


def references(payload: str) -> tuple[str, ...] | None:
    """The lines of a manifest; `None` where it is missing or unreadable."""
    try:
        data = read_small(f"{payload}{MANIFEST}", _MAX_MANIFEST)
        return None if data is None else tuple(data.decode().splitlines())
    except (OSError, UnicodeDecodeError):
        return None


def still_linked(root: str, payload: str) -> bool:
    """Does any line of the manifest name an existing link to this payload?

    Yes if the manifest cannot be read: rather keep a payload than lose it.
    """
    lines = references(payload)
    if lines is None:
        return True
    for line in lines:
        if line.startswith("/") or ".." in line.split("/"):
            continue
        link = os.path.join(root, line)
        try:
            if not stat.S_ISLNK(os.lstat(link).st_mode):
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
        except FileNotFoundError:
            continue
        except OSError:
            return True
        if target == os.path.normpath(payload):
            return True
    return False
