"""Making a located model complete: download what is missing, write its ref, check the lock file."""

import contextlib
import os
import tempfile
from pathlib import Path

from mdl.errors import VerificationError
from mdl.loader.checkpoint import open_checkpoint
from mdl.loader.progress import Progress
from mdl.loader.source.located import FetchedModel, LocatedModel
from mdl.loader.source.transfer import download_files
from mdl.resolver import Resolution, is_commit


def fetch_model(located: LocatedModel, progress: Progress | None = None) -> FetchedModel:
    """Download what is missing, and check the result.

    Raises:
        DiskError, OfflineError, NoAccessError: the download failed.
        VerificationError: a file is damaged, or is not the locked one.
    """
    checkpoint = located.checkpoint
    if checkpoint is None:
        assert located.download is not None
        folder = download_files(located.hub, located.download, progress)
        checkpoint = open_checkpoint(folder, located.request, located.download.gguf)
    _register_snapshot(located, checkpoint.folder)
    return FetchedModel(located, checkpoint)


def fetch_adapter(located: LocatedModel, progress: Progress | None = None) -> Path:
    """The folder of an adapter, downloaded if it is not here.

    Raises:
        DiskError, OfflineError, NoAccessError: the download failed.
        VerificationError: a file is not the locked one.
    """
    folder = located.adapter_folder
    if folder is None:
        assert located.download is not None
        folder = download_files(located.hub, located.download, progress)
    _register_snapshot(located, folder)
    return folder


def _register_snapshot(located: LocatedModel, folder: Path) -> None:
    """Write a complete snapshot's ref, and check it against the lock file."""
    if located.is_local_copy:
        return
    if located.commit is not None:
        write_ref(located, folder)
    if located.request.locked is not None:
        check_locked(located.request.locked, located.resolution, folder)


def check_locked(lock: str, resolution: Resolution, folder: Path) -> None:
    """Compare a snapshot's files with the lock file, by the names of their blobs.

    Blobs are named by their hash, so this is free; `mdl verify LOCK` recomputes the hashes.

    Raises:
        VerificationError: a file is not the locked one.
    """
    from mdl.resolver import read_lock

    entry = next(e for e in read_lock(Path(lock)) if e.requested == resolution.requested
                 and e.commit == resolution.commit)  # fmt: skip
    for path, digest in entry.files.items():
        file = folder / path
        if file.is_symlink() and file.readlink().name != digest.partition(":")[2]:
            raise VerificationError(
                f"{path} of {entry.repo_id} is not the file locked in {lock}.",
                why=f"Its blob is {file.readlink().name}; the lock file has {digest}.",
                next="`mdl pull --repair` downloads damaged files again; otherwise, lock again.",
            )


def write_ref(located: LocatedModel, snapshot: Path) -> None:
    """Write `refs/<revision>` as huggingface_hub does, so that others find the commit by name.

    An existing ref is moved only if the Hub has just said where it points: a lock file, a
    preference for cached models or an old answer of the Hub may mean an older commit.
    """
    request, resolution = located.request, located.resolution
    revision = resolution.revision or "main"
    chosen = request.locked is not None or (request.prefer or located.settings.prefer) == "cached"
    if is_commit(revision) or located.settings.offline or chosen:
        return
    refs = snapshot.parents[1] / "refs"
    target = refs / revision
    fresh = located.download is not None or resolution.knowledge_age is None
    with contextlib.suppress(OSError):
        if not target.resolve().is_relative_to(refs.resolve()):
            return
        if target.exists() and (not fresh or target.read_text() == located.commit):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(target, str(located.commit))


def _write_atomically(path: Path, text: str) -> None:
    """Write a file that appears under its name only when it is complete."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".ref-")
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
