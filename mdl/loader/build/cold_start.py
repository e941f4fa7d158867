"""A shorter cold start: the disk reads weights while Python imports, and imports go undisturbed.

Nothing of anyone else's is replaced: the kernel is asked to read files, and Python's collector of
cyclic garbage rests while a few thousand modules, which stay, are made, and does not look through
them afterwards (a fifth of the CPU time of importing torch and transformers goes into that).
"""

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Iterator

from mdl.loader.checkpoint import Checkpoint
from mdl.loader.request import LoadRequest


def prefetch(checkpoint: Checkpoint) -> threading.Thread | None:
    """Ask the kernel, from a thread of its own, to bring the weight files into the page cache.

    Costs next to nothing where they are there already. None where the platform cannot be asked.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    paths = [checkpoint.folder / name for name in checkpoint.files.weights]

    def ask() -> None:
        for path in paths:
            with contextlib.suppress(OSError), path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    thread = threading.Thread(target=ask, name="mdl-prefetch", daemon=True)
    thread.start()
    return thread


def import_libraries(checkpoint: Checkpoint | None, request: LoadRequest) -> None:
    """Import what the build will need: torch, transformers, the model's own class, bitsandbytes.

    Args:
        checkpoint: None while its configuration is not here yet.

    Raises:
        LoadError: the model's architecture is unknown to the installed transformers.
    """
    first = "transformers" not in sys.modules
    with collector_resting():
        import torch  # noqa: F401 # timed here
        import transformers

        if checkpoint is not None:
            from mdl.loader.build.transformers_build import model_class

            model_class(checkpoint, request)
            _ = transformers.AutoConfig, transformers.AutoTokenizer
            if request.format in ("bnb-4bit", "8bit") or checkpoint.is_bnb_4bit:
                import bitsandbytes  # noqa: F401 # timed here
        if first:
            make_all_old()


@contextlib.contextmanager
def collector_resting() -> Iterator[None]:
    """No garbage collection meanwhile, if it was on."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def make_all_old() -> None:
    """Move all objects to the collector's oldest generation without looking through them.

    What was just imported would otherwise be looked through at the next allocation, a quarter of
    a second for nothing: modules stay. Garbage among it waits for the next full collection.
    Left alone where the caller froze objects (`gc.freeze`): unfreezing would take theirs too.
    """
    if gc.get_freeze_count() == 0:
        gc.freeze()
        gc.unfreeze()
