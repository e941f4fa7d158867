"""Reading the weights while Python imports: a cold start waits for the disk only once."""

import contextlib
import os
import threading

from mdl.loader.checkpoint import Checkpoint


def prefetch(checkpoint: Checkpoint) -> threading.Thread | None:
    """Ask the kernel, from a thread of its own, to bring the weight files into the page cache.

    Costs next to nothing where they are there already. None where the platform cannot be asked.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    paths = [checkpoint.folder / name for name in checkpoint.headers]

    def ask() -> None:
        for path in paths:
            with contextlib.suppress(OSError), path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    thread = threading.Thread(target=ask, name="mdl-prefetch", daemon=True)
    thread.start()
    return thread
