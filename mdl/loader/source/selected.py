"""Download chosen files of a resolution: a stored format's variant, or what patterns select."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mdl.errors import LoadError, NotFoundError, OfflineError, VerificationError
from mdl.loader.progress import Progress
from mdl.loader.request import LoadRequest
from mdl.loader.source.by_range import count_kept
from mdl.loader.source.download import (
    Download,
    HubAccess,
    RemoteFile,
    json_reader,
    list_files,
)
from mdl.loader.source.fetch import check_locked, write_ref
from mdl.loader.source.locate import current_commit
from mdl.loader.source.located import LocatedModel
from mdl.loader.source.transfer import download_files
from mdl.model_files import ModelFiles, ReadJson, WeightFiles, choose_files
from mdl.resolver import Resolution, ResolveOptions
from mdl.settings import Settings

if TYPE_CHECKING:
    from mdl.resolver import Resolver

# Formats whose one file is what a runtime opens; of the others it opens the folder.
_ONE_FILE = ("gguf",)
# Of a repository that is no checkpoint of transformers' these are other forms, or not weights.
_LEFT_OUT = (
    "*.gguf", "*.onnx", "*.onnx_data", "*.pth", "*.bin", "*.pt", "*.h5", "*.msgpack", "*.ot",
    "original/*", "onnx/*", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.mp4", ".git*",
)  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """Which of a repository's files to download, and where to.

    `include` and `exclude` are shell patterns as of `hf download`; without `include` it is what
    the format needs. `local_dir` is a folder outside the cache.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    local_dir: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude or self.local_dir)


@dataclass(frozen=True)
class PulledFiles:
    """Files of a resolution: `path` is what a runtime opens, None after a dry run.

    `download` is None where all were in the cache. `left_out` are the repository's others, where
    no pattern chose.
    """

    resolution: Resolution
    commit: str | None
    path: Path | None
    files: tuple[str, ...]
    download: Download | None = None
    left_out: tuple[str, ...] = ()


def pull_files(
    name: str,
    options: ResolveOptions,
    selection: Selection,
    settings: Settings,
    *,
    token: str | bool | None = None,
    locked: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PulledFiles:
    """Resolve a name and download its format's files, or those that the patterns select.

    Raises:
        NotFoundError: no file is selected.
        OfflineError: the files are not in the cache, and the Hub cannot or may not be asked.
        MdlError: as the resolver refuses, or the download fails.
    """
    from mdl.local_resolver import resolver_for

    resolver = resolver_for(settings, token=token)
    resolution = _resolve(resolver, name, options, locked)
    resolver.record(resolution, "pull")
    here = _from_cache(resolution, selection, offline=settings.offline)
    if here is not None:
        return here
    hub = HubAccess(settings, token)
    commit = current_commit(resolution, hub)
    if settings.offline:
        raise OfflineError(
            f"{resolution.repo_id} is not completely in the cache, and mdl is offline.",
            next="Run `mdl pull` while connected, or unset HF_HUB_OFFLINE.",
        )
    download = _plan(hub, resolution, commit, selection)
    folder = None
    if not dry_run:
        folder = download_files(hub, download, progress)
        if selection.local_dir is None:
            request = LoadRequest(
                name=name, revision=options.revision, prefer=options.prefer, locked=locked
            )
            located = LocatedModel(request, resolution, hub, resolution.repo_id, commit)
            write_ref(replace(located, download=download), folder)
            if locked is not None:
                check_locked(locked, resolution, folder)
    return PulledFiles(
        resolution,
        commit,
        None if folder is None else _to_open(folder, resolution, download.needed.all),
        download.needed.all,
        download,
        () if selection.include or selection.exclude else download.left_out,
    )


def _resolve(
    resolver: "Resolver", name: str, options: ResolveOptions, locked: str | None
) -> Resolution:
    from mdl.resolver import resolve_locked

    if locked is not None:
        return resolve_locked(resolver, locked, name, options)
    return resolver.resolve(name, options).checked()


def _from_cache(
    resolution: Resolution, selection: Selection, *, offline: bool
) -> PulledFiles | None:
    """What needs no download: a local folder, and files that are all in the cache."""
    cached, files = resolution.cached, resolution.files
    if selection or cached is None or cached.path is None or not cached.complete:
        return None
    if resolution.is_local or files is not None or offline:
        folder = Path(cached.path)
        paths = tuple(file.path for file in files or ())
        if resolution.format not in _ONE_FILE and files is not None and not offline:
            return None  # its configuration may be missing
        opened = _to_open(folder, resolution, paths)
        return PulledFiles(resolution, resolution.commit, opened, paths)
    return None


def _plan(hub: HubAccess, resolution: Resolution, commit: str, selection: Selection) -> Download:
    rows = list_files(hub, resolution.repo_id, commit)
    read = json_reader(hub, rows, resolution.repo_id, commit)
    chosen = select_files(rows, resolution, selection, read)
    if not chosen.all:
        raise NotFoundError(
            f"No file of {resolution.repo_id} is selected.",
            why=f"it has {len(rows)} files, such as {', '.join(sorted(rows)[:3])}",
            next="Check --include and --exclude: they are patterns such as '*.json'.",
        )
    files = tuple(rows[path] for path in chosen.all)
    folder = selection.local_dir
    blobs = hub.folder_of(resolution.repo_id) / "blobs"
    missing = tuple(
        file
        for file in files
        if not (_is_there(folder / file.path, file) if folder else (blobs / file.etag).exists())
    )
    listing = tuple(rows.values())
    download = Download(
        resolution.repo_id, commit, files, missing, chosen, local_dir=folder, listing=listing
    )
    return count_kept(hub, download)


def select_files(
    rows: Mapping[str, RemoteFile], resolution: Resolution, selection: Selection, read: ReadJson
) -> ModelFiles:
    """The files to download, the ones to open first; `read` reads their JSON.

    Raises:
        NotFoundError: the repository no longer has a file of the variant.
    """
    from huggingface_hub.utils import filter_repo_objects

    include = list(selection.include) or None
    if include is not None:
        paths: Sequence[str] = sorted(rows)
    else:
        paths = needed_files(rows, resolution, read)
    exclude = list(selection.exclude) or None
    kept = filter_repo_objects(paths, allow_patterns=include, ignore_patterns=exclude)
    files = list(kept)
    small = tuple(path for path in files if rows[path].size < 1_000_000)
    large = tuple(path for path in files if path not in small)
    return ModelFiles(WeightFiles(large), small)


def needed_files(rows: Iterable[str], resolution: Resolution, read: ReadJson) -> list[str]:
    """What a format needs of a repository's files.

    Raises:
        NotFoundError: the repository no longer has a file of the variant.
    """
    have = set(rows)
    named = [file.path for file in resolution.files or ()]
    for path in named:
        if path not in have:
            raise NotFoundError(
                f"{resolution.repo_id} has no file {path}.",
                why="the repository was changed since its files were listed",
                next="Run it again.",
            )
    if named and resolution.format in _ONE_FILE:
        return named
    try:
        files = choose_files(have, read)
        chosen = [path for path in files.all if path not in files.weights.missing]
    except (LoadError, VerificationError):
        from huggingface_hub.utils import filter_repo_objects

        chosen = list(filter_repo_objects(sorted(have), ignore_patterns=list(_LEFT_OUT)))
    if named:
        weights = (".safetensors", ".safetensors.index.json")
        return [*named, *(p for p in chosen if p not in named and not p.endswith(weights))]
    return chosen


def _is_there(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _to_open(folder: Path, resolution: Resolution, paths: Sequence[str]) -> Path:
    """What a runtime is given: the first file of a GGUF variant, else the folder."""
    first = resolution.files[0].path if resolution.files else ""
    return folder / first if resolution.format in _ONE_FILE and first in paths else folder
