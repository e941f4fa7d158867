"""Quantize once: among loads, and among processes that load at the same moment.

The first of several ranks on a machine quantizes and keeps the result as a local mirror; the
others wait for it and read that.
"""

import contextlib
import logging
from dataclasses import dataclass, replace

from mdl.errors import DiskError
from mdl.loader.build import Built
from mdl.loader.checkpoint import Checkpoint, read_checkpoint
from mdl.loader.devices import is_parallel
from mdl.loader.mirror import PROVENANCE, in_turn, mirror_folder, mirror_row, write_mirror
from mdl.loader.report import Clock
from mdl.loader.request import LoadRequest
from mdl.loader.sources import Answer
from mdl.store.rows import LocalMirror

log = logging.getLogger("mdl")


@dataclass(frozen=True)
class Made:
    """A built model, what it was built from, and the local mirror that was read or written."""

    built: Built
    found: Answer
    checkpoint: Checkpoint
    mirror: str | None = None
    warnings: tuple[str, ...] = ()


def build_once(found: Answer, checkpoint: Checkpoint, request: LoadRequest, clock: Clock) -> Made:
    """Build the model; one that is quantized here becomes a mirror, or is read from one that
    another process has made since the request was resolved.

    Raises:
        LoadError, UsageError: as building.
        VerificationError: the mirror is damaged.
    """
    from mdl.loader.fast import build

    source = found.source
    if source.commit is None or not _is_to_keep(checkpoint, request):
        with clock("build"):
            built = build(checkpoint, request)
        return Made(built, found, checkpoint, str(checkpoint.folder) if source.mirror else None)
    folder = mirror_folder(source.repo_id, source.commit, request, found.settings)
    with contextlib.ExitStack() as stack:
        if not _ranks_build_together(request):
            with clock("wait"):
                stack.enter_context(in_turn(folder, found.settings))
        if not (folder / PROVENANCE).exists():
            with clock("build"):
                built = build(checkpoint, request)
            with clock("mirror"):
                return _keep(built, found, checkpoint, request)
    log.info("%s was quantized by another process: %s", source.repo_id, folder)
    _note(mirror_row(folder, source.repo_id, source.commit, request), found)
    made = read_checkpoint(folder)
    with clock("build"):
        built = build(made, request)
    source = replace(source, checkpoint=made, mirror=True)
    return Made(built, replace(found, source=source), made, str(folder))


def _is_to_keep(checkpoint: Checkpoint, request: LoadRequest) -> bool:
    """Whether the load quantizes, and the result may be kept."""
    return request.wants_4bit and request.quantize_once and checkpoint.stored_format is None


def _ranks_build_together(request: LoadRequest) -> bool:
    """Whether ranks exchange weights while they build: one that waits would stop them all."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    return is_parallel(request) or is_deepspeed_zero3_enabled()


def _keep(built: Built, found: Answer, checkpoint: Checkpoint, request: LoadRequest) -> Made:
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


def _note(row: LocalMirror, found: Answer) -> None:
    from mdl.store.catalog import open_catalog

    catalog = open_catalog(found.settings)
    try:
        if catalog.database.writable:
            catalog.record_local_mirror(row)
    finally:
        catalog.database.close()
