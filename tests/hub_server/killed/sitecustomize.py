"""Kills this process at its n-th change to the disk (MDL_TEST_KILL_AT), as soon as it is done.

Python imports this at its start where the folder is on PYTHONPATH.
"""

import os
import signal
import threading
from pathlib import Path
from typing import Any

left = int(os.environ.get("MDL_TEST_KILL_AT", "0"))
guard = threading.Lock()


def step(at: str) -> None:
    global left
    if os.environ["HF_HOME"] in at:
        with guard:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def watch(name: str) -> None:
    real = getattr(os, name)

    def changed(*args: Any, **options: Any) -> Any:
        done = real(*args, **options)
        at = f"/proc/self/fd/{args[0]}" if isinstance(args[0], int) else None
        step(str(Path(at).readlink()) if at else " ".join(str(arg) for arg in args))
        return done

    setattr(os, name, changed)


if left:
    for each in ("pwrite", "replace", "rename", "symlink", "mkdir", "unlink", "chmod"):
        watch(each)
