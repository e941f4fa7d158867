"""From a request to the model it means: resolve the name, follow an adapter, find the files."""

import tempfile
from dataclasses import replace
from pathlib import Path

from mdl.cachemgr import open_cache
from mdl.errors import LoadError, MdlError, OfflineError, VerificationError
from mdl.hub_http import hub_errors
from mdl.loader.checkpoint import check_one_file, files_in, open_checkpoint, read_json
from mdl.loader.progress import Progress
from mdl.loader.request import LoadRequest, check_loadable
from mdl.loader.source.by_range import count_kept
from mdl.loader.source.download import HubAccess, plan_download
from mdl.loader.source.fetch import fetch_adapter
from mdl.loader.source.local_copy import find_local_copy, read_local_copy
from mdl.loader.source.located import Adapter, LocatedModel
from mdl.loader.source.transfer import download_small_files
from mdl.model_files import ADAPTER, ModelFiles, WeightFiles, adapter_base
from mdl.resolver import Resolution, ResolveOptions, is_commit, not_at_revision
from mdl.settings import Settings, load_settings


def locate_model(
    request: LoadRequest,
    settings: Settings | None = None,
    *,
    purpose: str = "load",
    download_adapter: bool = True,
    progress: Progress | None = None,
) -> LocatedModel:
    """Resolve a request and find the model's files. An adapter leads to its base model.

    Args:
        purpose: why it is resolved, for the resolution log.
        download_adapter: download an adapter that is not here, else only read its configuration.

    Raises:
        MdlError: the name cannot be resolved, or is neither a model nor an adapter.
    """
    settings = settings or load_settings()
    folder = _adapter_folder(request)
    if folder is not None:
        adapter = _read_adapter(request, folder, request.revision)
    else:
        located = _locate_repository(request, settings, purpose)
        if not located.is_adapter:
            return located
        if download_adapter:
            folder = fetch_adapter(located, progress)
            adapter = _read_adapter(request, folder, None, located)
        else:
            adapter = _read_remote_adapter(located)
    for_base = replace(request, name=adapter.base, revision=adapter.revision)
    if _adapter_folder(for_base) is None:
        located = _locate_repository(for_base, settings, purpose)
        if not located.is_adapter:
            return replace(located, adapter=adapter)
    raise LoadError(
        f"{request.name} is an adapter for another adapter, {adapter.base}.",
        next=f"Load {adapter.base}, merge it into its model, save the result, and name that as the "
        f"base model in {ADAPTER}.",
    )


def _adapter_folder(request: LoadRequest) -> Path | None:
    """The folder that the request names, if it contains an adapter.

    Raises:
        LoadError: the adapter's weights are missing, or pickled and not allowed.
    """
    folder = Path(request.name).expanduser()
    try:
        return folder if _is_whole_adapter(folder, request) else None
    except OSError:  # no file system takes the name; the resolver says why it is not a model's
        return None


def _is_whole_adapter(folder: Path, request: LoadRequest) -> bool:
    """Whether a folder contains an adapter and all its files.

    Raises:
        LoadError: the adapter's weights are missing, or pickled and not allowed.
    """
    if not (folder / ADAPTER).is_file():
        return False
    files = files_in(folder, request)
    return files.adapter and all((folder / name).exists() for name in files.weights.files)


def _read_adapter(
    request: LoadRequest, folder: Path, revision: str | None, origin: LocatedModel | None = None
) -> Adapter:
    """The adapter in a folder; `revision` None is the one in its configuration.

    Raises:
        LoadError: it does not name its base model.
    """
    table = read_json(folder / ADAPTER)
    if request.base is not None:
        return Adapter(request, folder, request.base, None, origin)
    base = adapter_base(table)
    if base and _is_foreign_path(base):
        raise LoadError(
            f"The base model of the adapter {request.name}, {base}, is not on this machine.",
            why=f"base_model_name_or_path in {ADAPTER} is a path of the machine it was trained on.",
            next="Name the base model: base='org/name', `mdl load --base org/name`.",
        )
    if not base:
        raise LoadError(
            f"The adapter in {folder} does not name its base model.",
            why=f"{ADAPTER} has no base_model_name_or_path.",
            next="Name it: base='org/name', `mdl load --base org/name`.",
        )
    return Adapter(request, folder, base, revision or table.get("revision") or None, origin)


def _is_foreign_path(base: str) -> bool:
    """Whether a base model is a path, and there is nothing on this machine."""
    is_path = base.startswith(("/", "~", "./", "../")) or "\\" in base or base.count("/") > 1
    return is_path and "://" not in base and not Path(base).expanduser().exists()


def _read_remote_adapter(located: LocatedModel) -> Adapter:
    """An adapter's configuration, without downloading the adapter to the cache."""
    if located.adapter_folder is not None:
        return _read_adapter(located.request, located.adapter_folder, None, located)
    assert located.download is not None
    small = replace(located.download, needed=ModelFiles(WeightFiles(()), (ADAPTER,)))
    with tempfile.TemporaryDirectory(prefix="mdl-plan-") as scratch:
        download_small_files(located.hub, small, Path(scratch))
        adapter = _read_adapter(located.request, Path(scratch), None, located)
    return replace(adapter, folder=None)


def _locate_repository(request: LoadRequest, settings: Settings, purpose: str) -> LocatedModel:
    """Resolve a request, record it in the resolution log, and find the files. Downloads nothing."""
    if request.offline is not None:
        settings = settings._replace(offline=request.offline)
    resolution = _resolve(request, settings, purpose)
    return _find_files(request, resolution, HubAccess(settings, request.token))


def _resolve(request: LoadRequest, settings: Settings, purpose: str) -> Resolution:
    from mdl.local_resolver import resolver_for
    from mdl.resolver import resolve_locked

    format = request.format + (f":{request.variant}" if request.variant else "")
    prefer = request.prefer or settings.prefer
    options = ResolveOptions(
        format, request.exact_name, request.revision, prefer, mmproj="none",
        any_publisher=request.any_publisher,
    )  # fmt: skip
    resolver = resolver_for(settings, token=request.token)
    if request.locked is not None:
        resolution = resolve_locked(resolver, request.locked, request.name, options)
    else:
        resolution = resolver.resolve(request.name, options).checked()
    check_loadable(resolution.format.replace("exact", "16bit"))
    resolver.record(resolution, purpose)
    return resolution


def _find_files(request: LoadRequest, resolution: Resolution, hub: HubAccess) -> LocatedModel:
    """Look for a local copy with the requested settings, then in the cache, then on the Hub.

    Raises:
        OfflineError: something is missing, and the Hub cannot or may not be asked.
        LoadError: the repository is neither a model that can be loaded nor an adapter.
        VerificationError: a local folder is damaged.
    """
    gguf = _gguf_file(resolution)
    if resolution.is_local:
        folder = Path(resolution.repo_id)
        return LocatedModel(request, resolution, hub, resolution.repo_id, None,
                            checkpoint=open_checkpoint(folder, request, gguf))  # fmt: skip
    commit, repo_id = current_commit(resolution, hub), resolution.repo_id
    located = LocatedModel(request, resolution, hub, repo_id, commit)
    if resolution.quantize_on_load and request.wants_4bit and request.quantize_once:
        copy = find_local_copy(resolution.local_mirrors, commit, request)
        if copy is not None:
            checkpoint = read_local_copy(copy, repo_id, request)
            return replace(located, checkpoint=checkpoint, is_local_copy=True)
    placed = open_cache(hub.settings).placement(repo_id, commit)
    damage: MdlError | None = None
    if placed.path is not None:
        located_here = replace(located, repo_id=placed.repo_id)
        try:
            if _is_whole_adapter(placed.path, request):
                return replace(located_here, adapter_folder=placed.path)
            return replace(located_here, checkpoint=open_checkpoint(placed.path, request, gguf))
        except (LoadError, VerificationError) as error:
            if gguf is not None and not isinstance(error, VerificationError):
                raise  # no download would help
            damage = error  # an interrupted download or a damaged file: the Hub's listing will tell
    if hub.settings.offline:
        if isinstance(damage, VerificationError) and "missing" not in damage.details:
            raise damage
        raise _not_complete(resolution, damage, hub.settings)
    # Another process may be downloading right now. Fetching waits for its files, and only what is
    # still wrong after that is damage.
    download = plan_download(hub, repo_id, commit, request, gguf)
    return replace(located, download=count_kept(hub, download))


def _gguf_file(resolution: Resolution) -> str | None:
    """The file to load where the resolution is GGUF.

    Raises:
        LoadError: the model is in several files, or the file is not known.
    """
    if resolution.format != "gguf":
        return None
    if not resolution.files:
        raise OfflineError(
            f"Which GGUF files {resolution.repo_id} has is not known here.",
            next="Run it while the Hub can be asked.",
        )
    models = [file.path for file in resolution.files if "mmproj" not in file.path.lower()]
    models = models or [resolution.files[0].path]
    check_one_file(models[0], len(models))
    return models[0]


def current_commit(resolution: Resolution, hub: HubAccess) -> str:
    """The commit to load: the pinned one, else what the Hub says now (one request at most).

    Raises:
        OfflineError: no commit is known here, and the Hub cannot or may not be asked.
    """
    if is_commit(resolution.revision):
        return str(resolution.revision)
    fresh = resolution.knowledge_age is None and resolution.commit is not None
    if fresh or (hub.settings.offline and resolution.commit is not None):
        return str(resolution.commit)
    if hub.settings.offline:
        raise _not_complete(resolution, None, hub.settings)
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


def _not_complete(
    resolution: Resolution, cause: MdlError | None, settings: Settings
) -> OfflineError:
    here = (
        open_cache(settings).placement(resolution.repo_id, revision=resolution.revision).revisions
    )
    if here:
        return not_at_revision(resolution.repo_id, resolution.revision, here)
    missing = cause.details.get("missing") if cause else None
    revision = f" at {resolution.revision}" if resolution.revision else ""
    why = f"{missing} is missing." if missing else cause.message if cause else ""
    return OfflineError(
        f"{resolution.repo_id}{revision} is not completely in the cache, and mdl is offline.",
        why=why or "None of it is in the cache.",
        next="Run `mdl pull` while connected, or unset HF_HUB_OFFLINE.",
    )
