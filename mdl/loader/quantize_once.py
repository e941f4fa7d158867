"""Quantize once: later loads, and processes loading at the same time, share one local copy.

The first of several ranks on a machine quantizes the model and saves a local copy; the others wait
for it and read that.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from mdl.errors import DiskError
from mdl.loader.build import Built, build_model, check_quantized, is_own_class, quiet_transformers
from mdl.loader.checkpoint import Checkpoint
from mdl.loader.devices import is_parallel
from mdl.loader.progress import PhaseTimer
from mdl.loader.request import LoadRequest
from mdl.loader.source import (
    FetchedModel,
    LocatedModel,
    is_complete,
    local_copy_folder,
    local_copy_row,
    locked,
    read_local_copy,
    write_local_copy,
)
from mdl.store import LocalMirror

# Arguments for transformers that leave no trace in what is saved.
NOT_SAVED = frozenset(("attn_implementation", "experts_implementation", "max_memory"))
log = logging.getLogger("mdl")


def build_once(fetched: FetchedModel, clock: PhaseTimer, check: Callable[[Built], object]) -> Built:
    """Build the model. If that quantizes it, save a local copy, or read the one that another
    process saved since the model was located.

    Args:
        check: called with what was built, before a copy of it is kept; what it raises is raised.

    Raises:
        LoadError, UsageError: the model cannot be built.
        VerificationError: the local copy is damaged.
    """
    located, checkpoint = fetched.located, fetched.checkpoint
    if located.commit is None or not keeps_local_copy(checkpoint):
        built = _build(checkpoint, clock, check)
        return replace(built, local_copy=str(checkpoint.folder)) if located.is_local_copy else built
    repo_id, commit, request = located.repo_id, located.commit, located.request
    folder = local_copy_folder(repo_id, commit, request, located.settings)
    with contextlib.ExitStack() as stack:
        if not _ranks_build_together(request):
            with clock("wait"):
                stack.enter_context(locked(folder, located.settings))
        if not is_complete(folder):
            built = _build(checkpoint, clock, check)
            with clock("save"):
                return _save_local_copy(built, located)
    log.info("%s was quantized by another process: %s", repo_id, folder)
    _record(local_copy_row(folder, repo_id, commit, request), located)
    built = _build(read_local_copy(folder, repo_id, request), clock, check)
    return replace(built, local_copy=str(folder))


def keeps_local_copy(checkpoint: Checkpoint) -> bool:
    """Whether a load quantizes the repository's own model: not one with a new head or a changed
    configuration, which later loads must not get."""
    request = checkpoint.request
    quantizes = request.wants_4bit and checkpoint.stored_format is None
    unchanged = set(request.extra) <= NOT_SAVED and is_own_class(checkpoint)
    return quantizes and request.quantize_once and unchanged


def _build(checkpoint: Checkpoint, clock: PhaseTimer, check: Callable[[Built], object]) -> Built:
    with clock("build"):
        built = build_model(checkpoint)
        check_quantized(built)
    check(built)
    return built


def _ranks_build_together(request: LoadRequest) -> bool:
    """Whether ranks exchange weights while building, so that waiting for one would deadlock."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    return is_parallel(request) or is_deepspeed_zero3_enabled()


def _save_local_copy(built: Built, located: LocatedModel) -> Built:
    """Save and register a local copy; if the disk is too small, warn and go on without one."""
    assert located.commit is not None
    origin = (located.repo_id, located.commit)
    try:
        with quiet_transformers():
            row = write_local_copy(built.model, built.checkpoint, origin, located.settings)
    except DiskError as error:
        return replace(built, warnings=(f"{error.message} {error.why}",))
    _record(row, located)
    return replace(built, local_copy=row.path)


def _record(row: LocalMirror, located: LocatedModel) -> None:
    from mdl.store import open_catalog

    catalog = open_catalog(located.settings)
    try:
        if catalog.database.writable:
            catalog.record_local_mirror(row)
    finally:
        catalog.database.close()
