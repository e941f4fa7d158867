"""From a resolution to a folder: which commit, what of it is here, what has to be fetched."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.cachemgr import open_cache
from mdl.errors import LoadError, MdlError, OfflineError, VerificationError
from mdl.loader.build import find_mirror, read_mirror
from mdl.loader.checkpoint import Checkpoint, files_in, read_checkpoint
from mdl.loader.progress import Progress
from mdl.loader.request import LoadRequest
from mdl.loader.source.download import Download, HubAccess, fetch, hub_errors, plan_download
from mdl.resolver import ADAPTER, Resolution, ResolveOptions, is_commit
from mdl.settings import Settings


@dataclass(frozen=True)
class ModelSource:
    """Where the bytes of a resolution are or come from.

    `checkpoint` is there when the folder is whole; `download` when something is to be fetched.
    `mirror` says that the folder is a local 4-bit mirror written by an earlier load. `adapter` is
    the folder of an adapter that is whole, which no checkpoint is read from.
    """

    repo_id: str
    commit: str | None
    checkpoint: Checkpoint | None
    download: Download | None
    mirror: bool = False
    adapter: Path | None = None

    @property
    def is_adapter(self) -> bool:
        fetched = self.download is not None and self.download.needed.adapter
        return fetched or self.adapter is not None

    @property
    def bytes_to_fetch(self) -> int:
        return self.download.bytes if self.download is not None else 0


@dataclass(frozen=True)
class LocatedModel:
    """A resolution and the source it leads to."""

    resolution: Resolution
    source: ModelSource
    settings: Settings
    hub: HubAccess


def answer(request: LoadRequest, settings: Settings, *, purpose: str = "load") -> LocatedModel:
    """Resolve a request, note it in the resolution log, and find its bytes. Fetches nothing.

    Args:
        purpose: what the log says the answer was for.

    Raises:
        MdlError: as the resolver refuses, or the repository is not a model that may be loaded.
    """
    from mdl.local_resolver import resolver_for
    from mdl.resolver import resolve_locked

    if request.offline is not None:
        settings = settings._replace(offline=request.offline)
    hub = HubAccess(settings, request.token)
    prefer = request.prefer or settings.prefer
    options = ResolveOptions(request.format, request.exact_name, request.revision, prefer)
    resolver = resolver_for(settings, token=request.token)
    if request.locked is not None:
        resolution = resolve_locked(resolver, request.locked, request.name, options)
    else:
        resolution = resolver.resolve(request.name, options).checked()
    resolver.record(resolution, purpose)
    source = locate(request, resolution, hub)
    return LocatedModel(resolution, source, settings, hub)


def locate(request: LoadRequest, resolution: Resolution, hub: HubAccess) -> ModelSource:
    """Find what a resolution needs, here or on the Hub, in this order: a local mirror of this
    very commit and these settings, the cache, a download.

    Raises:
        OfflineError: something is missing and the Hub may not or cannot be asked.
        LoadError: the repository is neither a model that may be loaded nor an adapter.
        VerificationError: a local folder is damaged.
    """
    reading = {"allow_pickle": request.allow_pickle, "remote_code": request.trust_remote_code}
    if resolution.is_local:
        folder = Path(resolution.repo_id)
        return ModelSource(resolution.repo_id, None, read_checkpoint(folder, **reading), None)
    commit = current_commit(resolution, hub)
    repo_id = resolution.repo_id
    if resolution.quantize_on_load and request.wants_4bit and request.quantize_once:
        made = find_mirror(resolution.local_mirrors, commit, request)
        if made is not None:
            return ModelSource(repo_id, commit, read_mirror(made, repo_id), None, mirror=True)
    here = open_cache(hub.settings).placement(repo_id, commit)
    damage: MdlError | None = None
    if here.path is not None:
        try:
            if is_whole_adapter(here.path, request):
                return ModelSource(here.repo_id, commit, None, None, adapter=here.path)
            return ModelSource(here.repo_id, commit, read_checkpoint(here.path, **reading), None)
        except (LoadError, VerificationError) as error:
            damage = error  # a pull that broke off, or a damaged file: the listing tells
    if hub.settings.offline:
        if isinstance(damage, VerificationError) and "missing" not in damage.details:
            raise damage
        raise _not_here(resolution, damage)
    # Where another process downloads at this moment, the folder is only not whole yet: fetching
    # waits for its files, and what is still wrong then is damage.
    return ModelSource(repo_id, commit, None, plan_download(hub, repo_id, commit, **reading))


def is_whole_adapter(folder: Path, request: LoadRequest) -> bool:
    """Whether a folder is an adapter's, with all that it needs.

    Raises:
        LoadError: it is one without weights, or with pickled ones that are not allowed.
    """
    if not (folder / ADAPTER).is_file():
        return False
    files = files_in(folder, allow_pickle=request.allow_pickle)
    return files.adapter and all((folder / name).exists() for name in files.weights)


def fetch_model(
    found: LocatedModel, request: LoadRequest, progress: Progress | None = None
) -> Checkpoint:
    """The checked checkpoint of a source, downloading what is missing.

    Raises:
        DiskError, OfflineError, NoAccessError: the download cannot be done.
        VerificationError: what is there is damaged.
    """
    checkpoint = found.source.checkpoint
    if checkpoint is None:
        assert found.source.download is not None
        folder = fetch(found.hub, found.source.download, progress=progress)
        checkpoint = read_checkpoint(
            folder, allow_pickle=request.allow_pickle, remote_code=request.trust_remote_code
        )
    _settle(found, request, checkpoint.folder)
    return checkpoint


def fetch_adapter(
    found: LocatedModel, request: LoadRequest, progress: Progress | None = None
) -> Path:
    """The folder of an adapter, downloaded where it is not here.

    Raises:
        DiskError, OfflineError, NoAccessError: the download cannot be done.
    """
    folder = found.source.adapter
    if folder is None:
        assert found.source.download is not None
        folder = fetch(found.hub, found.source.download, progress=progress)
    _settle(found, request, folder)
    return folder


def _settle(found: LocatedModel, request: LoadRequest, folder: Path) -> None:
    """What follows when a snapshot is whole: its ref, and the lock's word on it."""
    if found.source.commit is not None and not found.source.mirror:
        _remember_ref(found, request, folder)
    if request.locked is not None and not found.source.mirror:
        check_locked(request.locked, found.resolution, folder)


def check_locked(lock: str, resolution: Resolution, folder: Path) -> None:
    """Whether a snapshot's files are those of the lock, by the names of their blobs.

    A blob is named by its content's hash, which `mdl verify LOCK` recomputes; here the names are
    enough, and cost nothing.

    Raises:
        VerificationError: a file is another one than the lock names.
    """
    from mdl.resolver import read_lock

    entries = read_lock(Path(lock))
    entry = next(e for e in entries if e.requested == resolution.requested
                 and e.commit == resolution.commit)  # fmt: skip
    for path, digest in entry.files.items():
        file = folder / path
        if file.is_symlink() and file.readlink().name != digest.partition(":")[2]:
            raise VerificationError(
                f"{path} of {entry.repo_id} is not the file that {lock} names.",
                why=f"its blob is {file.readlink().name}, the lock says {digest}",
                next="`mdl pull --repair` fetches damaged files again; else lock anew.",
            )


def current_commit(resolution: Resolution, hub: HubAccess) -> str:
    """The commit to load: a pin as it is, else what the Hub says now (at most one request).

    Raises:
        OfflineError: nothing is known here and the Hub may not or cannot be asked.
    """
    if is_commit(resolution.revision):
        return str(resolution.revision)
    fresh = resolution.knowledge_age is None and resolution.commit is not None
    if fresh or (hub.settings.offline and resolution.commit is not None):
        return str(resolution.commit)
    if hub.settings.offline:
        raise _not_here(resolution, None)
    from huggingface_hub import HfApi

    try:
        with hub_errors(resolution.repo_id):
            info = HfApi(**hub.options).model_info(
                resolution.repo_id, revision=resolution.revision, timeout=hub.settings.hub_timeout
            )
    except OfflineError:
        if resolution.commit is None:
            raise
        return resolution.commit
    return str(info.sha)


def _remember_ref(found: LocatedModel, request: LoadRequest, snapshot: Path) -> None:
    """Write `refs/<revision>` as huggingface_hub does, so that others find the commit by it.

    A ref that is there moves only where the Hub has just said which commit it names: a lock, a
    preference for what is here, or knowledge of another day may mean an older one.
    """
    resolution = found.resolution
    revision = resolution.revision or "main"
    chosen = request.locked is not None or (request.prefer or found.settings.prefer) == "cached"
    if is_commit(revision) or found.settings.offline or chosen:
        return
    refs = snapshot.parents[1] / "refs"
    target = refs / revision
    fresh = found.source.download is not None or resolution.knowledge_age is None
    with contextlib.suppress(OSError):
        if not target.resolve().is_relative_to(refs.resolve()):
            return
        if target.exists() and (not fresh or target.read_text() == found.source.commit):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with _written_whole(target) as stream:
            stream.write(str(found.source.commit))


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[Any]:
    """A text file that appears under its name only when it is whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".ref-")
    try:
        with os.fdopen(handle, "w") as stream:
            yield stream
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _not_here(resolution: Resolution, cause: MdlError | None) -> OfflineError:
    revision = f" at {resolution.revision}" if resolution.revision else ""
    missing = cause.details.get("missing") if cause else None
    why = f"{missing} is not there." if missing else cause.message if cause else ""
    return OfflineError(
        f"{resolution.repo_id}{revision} is not wholly here, and the network is switched off.",
        why=why or "Nothing of it is in the cache.",
        next="Run `mdl pull` while connected, or unset HF_HUB_OFFLINE.",
    )
