"""Every change that mdl makes to a cache goes through here, one function per kind of change.

Each is a single system call that leaves either the old or the new state, or a short sequence
that keeps its unfinished part under a temporary name. `after_step` is called after each of them,
so that a test can kill the process at every possible point.
"""

import ctypes
import errno
import os
import stat
import sys

from mdl.errors import DiskError

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2


def after_step() -> None:
    """Do nothing; tests replace it."""


def lexists(path: str) -> bool:
    return os.path.lexists(path)


def is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def make_folder(path: str, mode: int = 0o777) -> None:
    """Make a folder and its missing parents, unless it exists."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent and parent != path:
        make_folder(parent)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    after_step()


def remove_folder(path: str) -> bool:
    """Remove a folder if it exists and is empty."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    after_step()
    return True


def rename_new(source: str, target: str) -> None:
    """Rename, but never over something that exists.

    Raises:
        FileExistsError: `target` exists; nothing was changed.
    """
    if not _renameat2(source, target, _RENAME_NOREPLACE):
        if lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        os.rename(source, target)
    after_step()


def exchange(first: str, second: str) -> None:
    """Swap two names atomically: neither is ever missing.

    Raises:
        DiskError: this system or file system cannot.
    """
    if not _renameat2(first, second, _RENAME_EXCHANGE):
        raise DiskError(
            "This file system cannot swap two folders in one step.",
            why="folding one spelling into another needs renameat2 with RENAME_EXCHANGE.",
            next="Use `mdl cache normalize --to shared`, which moves no folder.",
        )
    after_step()


def replace(source: str, target: str) -> None:
    """Rename, over an existing file too."""
    os.replace(source, target)
    after_step()


def hard_link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)
    after_step()


def soft_link(text: str, target: str) -> None:
    os.symlink(text, target)
    after_step()


def remove_file(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    after_step()
    return True


def write_file(path: str, data: bytes, temporary: str) -> None:
    """Replace a file's content atomically and durably: readers see the old or the new.

    Args:
        temporary: a name on the same device for the unfinished file.
    """
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    after_step()
    replace(temporary, path)


def set_mode(path: str, mode: int) -> None:
    os.chmod(path, mode)
    after_step()


def append_line(path: str, line: bytes, mode: int = 0o666) -> None:
    """Append one line to a regular file, synced, and never through a link."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    fd = os.open(path, flags, mode)
    try:
        if os.write(fd, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.fsync(fd)
    finally:
        os.close(fd)
    after_step()


def _renameat2(source: str, target: str, flags: int) -> bool:
    """Call renameat2; false where the kernel, libc or file system does not support it.

    Raises:
        OSError: it is supported, and it failed.
    """
    if not sys.platform.startswith("linux"):
        return False
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    done = function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), source, None, target)
