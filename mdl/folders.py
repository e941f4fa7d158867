"""The files below a folder that a user named: it may be any folder, also `/`."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

_MOST = 50_000
_DEEPEST = 4
_NOT_OF_MODELS = (".cache", ".git")


def files_below(folder: Path) -> Iterator[str]:
    """The files of a folder and of its subfolders, as paths in it, dangling links included.

    Those nearest to the top come first. Four folders down, and after 50,000 entries, no further
    folder is looked into: a model is not that deep in anything. Links to folders are not followed.
    """
    found, waiting = 0, deque([""])
    while waiting and found < _MOST:
        inside = waiting.popleft()
        with contextlib.suppress(OSError), os.scandir(folder / inside) as entries:
            for entry in entries:
                found += 1
                if not entry.is_dir(follow_symlinks=False):
                    if not entry.is_dir():
                        yield f"{inside}{entry.name}"
                elif inside.count("/") < _DEEPEST and entry.name not in _NOT_OF_MODELS:
                    waiting.append(f"{inside}{entry.name}/")
