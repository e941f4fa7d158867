"""Quantize once: among loads, and among processes that load at the same moment.

The first of several ranks on a machine quantizes and keeps the result as a local mirror; the
others wait for it and read that.
"""

import contextlib
import logging
from dataclasses import dataclass, replace

from mdl.errors import DiskError
from mdl.loader.build import (
    PROVENANCE,
    Built,
    check_quantized,
    in_turn,
    is_own_class,
    mirror_folder,
    mirror_row,
    read_mirror,
    write_mirror,
)
from mdl.loader.checkpoint import Checkpoint
from mdl.loader.devices import is_parallel
from mdl.loader.report import PhaseTimer
from mdl.loader.request import LoadRequest
from mdl.loader.source import LocatedModel
from mdl.store import LocalMirror

# Arguments for transformers that leave no trace in what is saved.
NOT_SAVED = frozenset(("attn_implementation", "experts_implementation", "max_memory"))
log = logging.getLogger("mdl")


@dataclass(frozen=True)
class Made:
    """A built model, what it was built from, and the local mirror that was read or written."""

    built: Built
    found: LocatedModel
    checkpoint: Checkpoint
    mirror: str | None = None
    warnings: tuple[str, ...] = ()


def build_once(
    found: LocatedModel, checkpoint: Checkpoint, request: LoadRequest, clock: PhaseTimer
) -> Made:
    """Build the model; one that is quantized here becomes a mirror, or is read from one that
    another process has made since the request was resolved.

    Raises:
        LoadError, UsageError: as building.
        VerificationError: the mirror is damaged.
    """
    from mdl.loader.build import build_mapped

    source = found.source
    if source.commit is None or not is_to_keep(checkpoint, request):
        with clock("build"):
            built = build_mapped(checkpoint, request)
            check_quantized(built, request)
        return Made(built, found, checkpoint, str(checkpoint.folder) if source.mirror else None)
    folder = mirror_folder(source.repo_id, source.commit, request, found.settings)
    with contextlib.ExitStack() as stack:
        if not _ranks_build_together(request):
            with clock("wait"):
                stack.enter_context(in_turn(folder, found.settings))
        if not (folder / PROVENANCE).exists():
            with clock("build"):
                built = build_mapped(checkpoint, request)
                check_quantized(built, request)
            with clock("mirror"):
                return _keep(built, found, checkpoint, request)
    log.info("%s was quantized by another process: %s", source.repo_id, folder)
    _note(mirror_row(folder, source.repo_id, source.commit, request), found)
    made = read_mirror(folder, source.repo_id)
    with clock("build"):
        built = build_mapped(made, request)
    source = replace(source, checkpoint=made, mirror=True)
    return Made(built, replace(found, source=source), made, str(folder))


def is_to_keep(checkpoint: Checkpoint, request: LoadRequest) -> bool:
    """Whether the load quantizes, and the result is the repository's own model, which is what a
    mirror stands for: not one with a new head, nor with a changed configuration."""
    quantizes = request.wants_4bit and checkpoint.stored_format is None
    unchanged = set(request.extra) <= NOT_SAVED and is_own_class(checkpoint, request)
    return quantizes and request.quantize_once and unchanged


def _ranks_build_together(request: LoadRequest) -> bool:
    """Whether ranks exchange weights while they build: one that waits would stop them all."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    return is_parallel(request) or is_deepspeed_zero3_enabled()


def _keep(built: Built, found: LocatedModel, checkpoint: Checkpoint, request: LoadRequest) -> Made:
    """Write the mirror and note it in the catalogue; a full disk only costs the mirror."""
    source = found.source
    assert source.commit is not None
    origin = (source.repo_id, source.commit)
    try:
        row = write_mirror(built.model, checkpoint, origin, request, found.settings)
    except DiskError as error:
        return Made(built, found, checkpoint, None, (f"{error.message} {error.why}",))
    _note(row, found)
    return Made(built, found, checkpoint, row.path)


def _note(row: LocalMirror, found: LocatedModel) -> None:
    from mdl.store import open_catalog

    catalog = open_catalog(found.settings)
    try:
        if catalog.database.writable:
            catalog.record_local_mirror(row)
    finally:
        catalog.database.close()
