"""Local copies: 4-bit checkpoints that mdl quantized and saved for the next load.

A local copy is a plain folder that transformers loads like any prequantized checkpoint. It is a
repository of its own in the Hugging Face cache (owner `mdl-local`), so that the cache manager
lists and prunes it, and has a row in the catalogue, so that the resolver finds it. Its
`mdl-local-copy.json` says what it was made from.

It is written next to its place and then renamed: a half-written copy is never found.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mdl.cachemgr import folder_name
from mdl.cachemgr.verify import hash_file
from mdl.errors import DiskError, MdlError, VerificationError
from mdl.loader.checkpoint import Checkpoint, read_checkpoint
from mdl.loader.disk import check_space
from mdl.loader.request import LoadRequest
from mdl.settings import Settings
from mdl.store import LocalMirror
from mdl.version import installed_versions

OWNER = "mdl-local"
PROVENANCE = "mdl-local-copy.json"
ABANDONED = 86400.0  # seconds after which an unfinished copy is assumed abandoned


def settings_digest(request: LoadRequest) -> str:
    """Identifies the quantization settings and dtype of a local copy."""
    table = {**request.quantization.to_config(request.dtype or "auto"), "dtype": request.dtype}
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def find_local_copy(
    known: Iterable[Mapping[str, Any]], commit: str | None, request: LoadRequest
) -> Path | None:
    """The folder of an existing local copy of this commit with the requested settings."""
    digest = settings_digest(request)
    for row in known:
        folder = Path(row["path"])
        if row["commit"] == commit and row["settings"] == digest and is_complete(folder):
            return folder
    return None


def is_complete(folder: Path) -> bool:
    return (folder / PROVENANCE).exists()


def local_copy_name(repo_id: str) -> str:
    """The repository id of a local copy of `repo_id` in the cache."""
    return f"{OWNER}/{repo_id.replace('/', '.')}-bnb-4bit"


def local_copy_folder(repo_id: str, commit: str, request: LoadRequest, settings: Settings) -> Path:
    """Where the local copy of this commit with the requested settings is saved."""
    identity = {"repo_id": repo_id, "commit": commit, "settings": settings_digest(request)}
    revision = hashlib.sha1(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    home = Path(settings.cache_root) / folder_name(local_copy_name(repo_id))
    return home / "snapshots" / revision


def local_copy_row(folder: Path, repo_id: str, commit: str, request: LoadRequest) -> LocalMirror:
    """A local copy's row in the catalogue."""
    return LocalMirror(
        str(folder), repo_id, commit, "bnb-4bit", settings_digest(request), time.time()
    )


def read_local_copy(folder: Path, repo_id: str, request: LoadRequest) -> Checkpoint:
    """The checked checkpoint of a local copy.

    Raises:
        VerificationError: it is damaged.
    """
    try:
        return read_checkpoint(folder, request)
    except MdlError as error:
        raise VerificationError(
            f"The local 4-bit copy of {repo_id} is damaged.",
            why=f"{error.message} {error.why}".strip(),
            next=f"`mdl cache rm {local_copy_name(repo_id)}` removes it; the next load saves a new "
            "one.",
        ) from error


@contextlib.contextmanager
def locked(folder: Path, settings: Settings) -> Iterator[None]:
    """Hold the lock on a local copy: one process at a time may create it.

    The lock file is next to huggingface_hub's own, so that the cache manager sees a repository
    being written. The lock ends with its process. A cache that is not writable can have no local
    copy and needs no lock.
    """
    import filelock

    locks = Path(settings.cache_root) / ".locks" / folder.parent.parent.name
    lock = filelock.FileLock(locks / f"{folder.name}.lock", mode=0o664)
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def write_local_copy(
    model: Any, source: Checkpoint, origin: tuple[str, str], settings: Settings
) -> LocalMirror:
    """Save a model that was quantized on load.

    Args:
        source: the checkpoint it was built from.
        origin: the repository and commit of that checkpoint.

    Raises:
        DiskError: the disk is too small; nothing is left behind.
    """
    from safetensors import SafetensorError

    repo_id, commit = origin
    snapshot = local_copy_folder(repo_id, commit, source.request, settings)
    home = snapshot.parent.parent
    if not is_complete(snapshot):
        check_space(settings.cache_root, model.get_memory_footprint())
        try:
            home.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(home)
            scratch = Path(tempfile.mkdtemp(dir=home, prefix=".writing-"))
        except OSError as error:
            raise _not_saved(repo_id, error) from error
        try:
            _save(model, source, scratch, _provenance(model, repo_id, commit, source.request))
            read_checkpoint(scratch)  # never publish what cannot be read again
            _publish(scratch, home, snapshot)
        except (OSError, SafetensorError, MdlError) as error:
            raise _not_saved(repo_id, error) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return local_copy_row(snapshot, repo_id, commit, source.request)


def _not_saved(repo_id: str, error: Exception) -> DiskError:
    return DiskError(
        f"Could not save the local 4-bit copy of {repo_id}.",
        why=str(error),
        next="The model is loaded all the same. Free some space, or pass quantize_once=False.",
    )


def _remove_abandoned(home: Path) -> None:
    """Remove what killed processes left half-written, but nothing still being written."""
    for left in home.glob(".writing-*"):
        if time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)


def _provenance(model: Any, repo_id: str, commit: str, request: LoadRequest) -> dict[str, Any]:
    return {
        "repo_id": repo_id,
        "commit": commit,
        "settings": settings_digest(request),
        "quantization": model.config.to_dict()["quantization_config"],
        "made_with": installed_versions("mdl", "torch", "transformers", "bitsandbytes"),
    }


def _save(model: Any, source: Checkpoint, folder: Path, provenance: Mapping[str, Any]) -> None:
    """The quantized weights, the source's small files as they are, and the provenance."""
    with _saved_by_any_rank(model):
        model.save_pretrained(folder, safe_serialization=True)
    saved = {path.name for path in folder.iterdir()}
    for name in source.files.rest:
        if name not in saved and not name.endswith(".index.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.folder / name, folder / name)
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2, default=str))


@contextlib.contextmanager
def _saved_by_any_rank(model: Any) -> Iterator[None]:
    """transformers saves weights on rank 0 only; here the rank that quantized saves them."""
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    try:
        yield
    finally:
        del model.should_save_on_this_rank


def _publish(scratch: Path, home: Path, snapshot: Path) -> None:
    """Turn a written folder into a cached repository: blobs by hash, links, one ref."""
    blobs, staged = home / "blobs", scratch / ".snapshot"
    blobs.mkdir(exist_ok=True)
    files = [path for path in sorted(scratch.rglob("*")) if path.is_file()]
    for path in files:
        inside = path.relative_to(scratch)
        # The Hub's names: SHA-256 for weights, git's SHA-1 for the rest.
        kind = "sha256" if path.suffix == ".safetensors" else "git-sha1"
        blob = blobs / hash_file(str(path), kind)
        path.replace(blob)
        link = staged / inside
        link.parent.mkdir(parents=True, exist_ok=True)
        depth = len(inside.parts) + 1  # from snapshots/<commit>/ up to the repository folder
        link.symlink_to(Path(*[".."] * depth, "blobs", blob.name))
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(snapshot)
    except OSError:
        if not is_complete(snapshot):  # otherwise another process saved the same copy
            raise
    refs = home / "refs"
    refs.mkdir(exist_ok=True)
    unfinished = refs / f".main-{os.getpid()}"
    unfinished.write_text(snapshot.name)
    unfinished.replace(refs / "main")
