"""The cache's files that other processes have open or mapped, as far as `/proc` tells."""

import contextlib
import os
from collections.abc import Iterator


def list_open_files(root: str) -> dict[str, int]:
    """Path relative to the root → a process that has it open or mapped, as far as /proc tells."""
    real = os.path.realpath(root) + "/"
    found: dict[str, int] = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return found
    for pid in pids:
        if pid == os.getpid():
            continue
        for path in _paths_of(pid):
            if path.startswith(real):
                found.setdefault(path[len(real) :], pid)
    return found


def _paths_of(pid: int) -> Iterator[str]:
    """Every file a process has open or mapped; nothing for one that may not be looked at."""
    try:
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(fd.path)
    except OSError:
        return
    try:
        with open(f"/proc/{pid}/maps", errors="surrogateescape") as maps:
            for line in maps:
                start = line.find("/")
                if start > 0:
                    yield line[start:].rstrip("\n")
    except OSError:
        return
