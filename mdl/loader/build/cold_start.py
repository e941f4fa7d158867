"""A shorter cold start: read the weights while Python imports, and pause its garbage collector.

Nothing of other libraries is replaced. The kernel is asked to read the weight files ahead, and the
collector is paused while thousands of modules are imported; it then skips them, since they stay
anyway (traversing them takes a fifth of the CPU time of importing torch and transformers).
"""

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Iterator

from mdl.loader.checkpoint import Checkpoint


def prefetch(checkpoint: Checkpoint) -> threading.Thread | None:
    """Have the kernel read the weight files into the page cache, from a background thread.

    Almost free if they are there already. None if the platform has no `posix_fadvise`.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    paths = [checkpoint.folder / name for name in checkpoint.files.weights.files]

    def advise() -> None:
        for path in paths:
            with contextlib.suppress(OSError), path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    thread = threading.Thread(target=advise, name="mdl-prefetch", daemon=True)
    thread.start()
    return thread


def import_libraries(checkpoint: Checkpoint | None) -> None:
    """Import what building needs: torch, transformers, the model's class, bitsandbytes.

    Args:
        checkpoint: None while its configuration is not known; then torch and transformers only.

    Raises:
        LoadError: the installed transformers does not know the model's architecture.
    """
    first = "transformers" not in sys.modules
    with gc_paused():
        import torch  # noqa: F401 # so that its time counts as import time
        import transformers

        if checkpoint is not None:
            from mdl.loader.build.transformers_build import model_class

            model_class(checkpoint)
            _ = transformers.AutoConfig, transformers.AutoTokenizer
            if checkpoint.request.format in ("bnb-4bit", "8bit") or checkpoint.is_bnb_4bit:
                import bitsandbytes  # noqa: F401 # as above
        if first:
            age_all_objects()


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector; restore its previous state."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def age_all_objects() -> None:
    """Move all objects to the collector's oldest generation without traversing them.

    The next allocation would otherwise traverse all that was just imported, which takes a quarter
    of a second and frees nothing. Garbage among it waits for the next full collection. Does nothing
    if the caller froze objects (`gc.freeze`): unfreezing would affect these too.
    """
    if gc.get_freeze_count() == 0:
        gc.freeze()
        gc.unfreeze()
