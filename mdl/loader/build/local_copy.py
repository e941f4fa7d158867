"""Quantize once: a model quantized on load becomes a local 4-bit checkpoint for the next time.

A mirror is a plain folder that transformers loads as any prequantized checkpoint. It stands in
the Hugging Face cache as a repository of its own (owner `mdl-local`), so that the cache manager
counts and prunes it, and in the catalogue, so that the resolver finds it. `mdl-mirror.json` inside
says what it was made from.

It is written beside its place and renamed into it: a half-written mirror is never found.
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

from mdl.errors import DiskError, MdlError, VerificationError
from mdl.loader.checkpoint import Checkpoint, read_checkpoint
from mdl.loader.report import git_hash_of, sha256_of
from mdl.loader.request import LoadRequest
from mdl.loader.source import check_space, storage_folder
from mdl.settings import Settings
from mdl.store import LocalMirror
from mdl.version import __version__

OWNER = "mdl-local"
PROVENANCE = "mdl-mirror.json"
ABANDONED = 86400.0  # seconds after which an unfinished mirror belongs to nobody


def settings_digest(request: LoadRequest) -> str:
    """What tells two quantizations of one commit apart: the settings and the dtype asked for."""
    table = {**request.quantization.to_config(request.dtype or "auto"), "dtype": request.dtype}
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def find_mirror(
    known: Iterable[Mapping[str, Any]], commit: str | None, request: LoadRequest
) -> Path | None:
    """The folder of a mirror of this commit and these settings that is still there."""
    digest = settings_digest(request)
    for row in known:
        folder = Path(row["path"])
        if row["commit"] == commit and row["settings"] == digest and (folder / PROVENANCE).exists():
            return folder
    return None


def mirror_name(repo_id: str) -> str:
    """The repository id a mirror of `repo_id` has in the cache."""
    return f"{OWNER}/{repo_id.replace('/', '.')}-bnb-4bit"


def mirror_folder(repo_id: str, commit: str, request: LoadRequest, settings: Settings) -> Path:
    """Where the mirror of this commit with these settings stands once it is made."""
    identity = {"repo_id": repo_id, "commit": commit, "settings": settings_digest(request)}
    revision = hashlib.sha1(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    home = storage_folder(settings.cache_root, mirror_name(repo_id))
    return home / "snapshots" / revision


def mirror_row(folder: Path, repo_id: str, commit: str, request: LoadRequest) -> LocalMirror:
    """What the catalogue keeps about a mirror."""
    return LocalMirror(
        str(folder), repo_id, commit, "bnb-4bit", settings_digest(request), time.time()
    )


def read_mirror(folder: Path, repo_id: str) -> Checkpoint:
    """The checked checkpoint of a mirror.

    Raises:
        VerificationError: it is damaged, with how to have it made anew.
    """
    try:
        return read_checkpoint(folder)
    except MdlError as error:
        raise VerificationError(
            f"The local 4-bit mirror of {repo_id} is damaged.",
            why=f"{error.message} {error.why}".strip(),
            next=f"`mdl cache rm {mirror_name(repo_id)}` removes it; the next load makes it anew.",
        ) from error


@contextlib.contextmanager
def in_turn(folder: Path, settings: Settings) -> Iterator[None]:
    """One process at a time where the mirror `folder` is made or read for the first time.

    The lock stands where huggingface_hub's own do, so that the cache manager sees a repository
    that is being written. It ends with its process. Without a place to write it there is no mirror
    to wait for either.
    """
    from huggingface_hub.utils import WeakFileLock

    locks = Path(settings.cache_root) / ".locks" / folder.parent.parent.name
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError:
        yield
        return
    with WeakFileLock(locks / f"{folder.name}.lock"):
        yield


def write_mirror(
    model: Any,
    source: Checkpoint,
    origin: tuple[str, str],
    request: LoadRequest,
    settings: Settings,
) -> LocalMirror:
    """Save a model that was just quantized as a mirror of `origin` (repository, commit).

    Raises:
        DiskError: the disk is too small; nothing is left behind.
    """
    from safetensors import SafetensorError

    repo_id, commit = origin
    provenance = _provenance(model, repo_id, commit, request)
    snapshot = mirror_folder(repo_id, commit, request, settings)
    home = snapshot.parent.parent
    if not (snapshot / PROVENANCE).exists():
        check_space(settings.cache_root, model.get_memory_footprint())
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        scratch = Path(tempfile.mkdtemp(dir=home, prefix=".writing-"))
        try:
            _save(model, source, scratch, provenance)
            read_checkpoint(scratch)  # never publish what could not be read again
            _publish(scratch, home, snapshot)
        except (OSError, SafetensorError, MdlError) as error:
            raise DiskError(
                f"The 4-bit mirror of {repo_id} could not be written.",
                why=str(error),
                next="The model is loaded all the same; free some space, or pass "
                "quantize_once=False.",
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return mirror_row(snapshot, repo_id, commit, request)


def _sweep(home: Path) -> None:
    """Remove what killed processes left half-written; one that still writes is younger."""
    for left in home.glob(".writing-*"):
        if time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)


def _provenance(model: Any, repo_id: str, commit: str, request: LoadRequest) -> dict[str, Any]:
    import bitsandbytes
    import torch
    import transformers

    return {
        "repo_id": repo_id,
        "commit": commit,
        "settings": settings_digest(request),
        "quantization": model.config.to_dict()["quantization_config"],
        "made_with": {
            "mdl": __version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "bitsandbytes": bitsandbytes.__version__,
        },
    }


def _save(model: Any, source: Checkpoint, folder: Path, provenance: Mapping[str, Any]) -> None:
    """The quantized weights, the small files of the source as they are, and the provenance."""
    from mdl.loader.build.transformers_build import quiet_transformers

    with quiet_transformers(), _written_by_any_rank(model):
        model.save_pretrained(folder, safe_serialization=True)
    ours = {path.name for path in folder.iterdir()}
    for name in source.files.rest:
        if name not in ours and not name.endswith(".index.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.folder / name, folder / name)
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2, default=str))


@contextlib.contextmanager
def _written_by_any_rank(model: Any) -> Iterator[None]:
    """transformers writes weights on rank 0 alone; here the rank that quantized is the one that
    writes, whichever it is."""
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    try:
        yield
    finally:
        del model.should_save_on_this_rank


def _publish(scratch: Path, home: Path, snapshot: Path) -> None:
    """Turn a written folder into a repository of the cache: blobs by hash, links, one ref."""
    blobs, staged = home / "blobs", scratch / ".snapshot"
    blobs.mkdir(exist_ok=True)
    files = [path for path in sorted(scratch.rglob("*")) if path.is_file()]
    for path in files:
        inside = path.relative_to(scratch)
        blob = blobs / _blob_name(path)
        path.replace(blob)
        link = staged / inside
        link.parent.mkdir(parents=True, exist_ok=True)
        depth = len(inside.parts) + 1  # snapshots/<commit>/ up to the repository folder
        link.symlink_to(Path(*[".."] * depth, "blobs", blob.name))
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(snapshot)
    except OSError:
        if not (snapshot / PROVENANCE).exists():  # another process wrote the same mirror
            raise
    refs = home / "refs"
    refs.mkdir(exist_ok=True)
    unfinished = refs / f".main-{os.getpid()}"
    unfinished.write_text(snapshot.name)
    unfinished.replace(refs / "main")


def _blob_name(path: Path) -> str:
    """SHA-256 for weights, git's blob SHA-1 for the rest, as the Hub names them."""
    return sha256_of(path) if path.suffix == ".safetensors" else git_hash_of(path)
