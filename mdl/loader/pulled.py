"""`mdl.pull`: download the files a model needs, and return where they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.errors import UsageError
from mdl.loader.checkpoint import Checkpoint
from mdl.loader.progress import Progress
from mdl.loader.request import LoadRequest, named_format
from mdl.loader.source import (
    Download,
    LocatedModel,
    Selection,
    fetch_model,
    locate_model,
    pull_files,
)
from mdl.loader.verify import repair_snapshot
from mdl.resolver import ResolveOptions, parse_name
from mdl.settings import Settings, StrPath, load_settings


@dataclass(frozen=True)
class Pulled:
    """A model's files on this machine, or with `dry_run` what a pull would download.

    Attributes:
        path: what another program opens: a GGUF variant's first file, else the snapshot folder
            (for an adapter, its base model's); None after a dry run.
        files: the model's files, relative to `path`.
        downloaded: those that were (or would be) downloaded.
        bytes: those downloaded (or to download), without what was here.
        resumed: bytes that an interrupted pull had left.
        copied: the files that were (or would be) copied from the cache to `local_dir`.
        adapter: the adapter that was requested, as in a report.
        repaired: damaged files that were downloaded again; None unless requested.
        format: the format of the weights, with its variant: `gguf:Q4_K_M`.
        left_out: the repository's other files, the largest first, if it was listed and no pattern
            chose; `all_files` takes them.
    """

    requested: str
    repo_id: str
    commit: str | None
    path: Path | None
    files: tuple[str, ...]
    downloaded: tuple[str, ...]
    bytes: int
    adapter: dict[str, Any] | None
    repaired: tuple[str, ...] | None
    format: str | None = None
    left_out: tuple[str, ...] = ()
    resumed: int = 0
    copied: tuple[str, ...] = ()

    @property
    def report(self) -> dict[str, Any]:
        """The object of `mdl pull --json`; its `files` are those downloaded."""
        body: dict[str, Any] = {
            "requested": self.requested,
            "repo_id": self.repo_id,
            "commit": self.commit,
            "bytes": self.bytes,
            "files": list(self.downloaded),
            "left_out": list(self.left_out),
            "adapter": self.adapter,
            "done": self.path is not None,
        }
        if self.format is not None:
            body["format"] = self.format
        if self.resumed:
            body["resumed"] = self.resumed
        if self.copied:
            body["copied"] = list(self.copied)
        if self.repaired is not None:
            body["repaired"] = list(self.repaired)
        if self.path is not None:
            body["path"] = str(self.path)
        return body


def pull(
    name: str,
    *,
    format: str | None = None,
    exact: bool = False,
    base: str | None = None,
    revision: str | None = None,
    prefer: str | None = None,
    locked: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    repair: bool = False,
    dry_run: bool = False,
    mmproj: str | None = None,
    any_publisher: bool = False,
    runtime: str | None = None,
    fit: int | str | None = None,
    context: int = 8192,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    all_files: bool = False,
    local_dir: StrPath | None = None,
    token: str | bool | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> Pulled:
    """Download the files that a model needs, and no others, into the Hugging Face cache.

    Args:
        name: `org/name` in any casing, or a folder.
        format: as `mdl.resolve` takes it; a stored format that the name itself names (`-GGUF`,
            `-AWQ`), else `16bit`, by default.
        base: the base model of an adapter, if not the one that it names.
        exact, revision, prefer, mmproj, any_publisher, runtime, fit, context, token, offline,
            settings: as `mdl.resolve` takes them.
        locked: a lock file; the files must be exactly those it names.
        allow_pickle: accept pickled weights if there are no others; loading them can run code.
        trust_remote_code: download the repository's Python files too.
        repair: check the hash of every file in the cache, and download damaged ones again.
        dry_run: download nothing.
        include, exclude: patterns of file names, as `hf download` takes them; with `include` all
            files that match one, else what the format needs.
        all_files: every file of the repository, like `include="*"`.
        local_dir: download to this folder instead of the cache.
        progress: shows the progress of the download.

    Returns:
        The path for any other program, and what was downloaded.

    Raises:
        MdlError: as `mdl.resolve`; and a download that fails, which leaves the cache as it was.
    """
    found = settings or load_settings()
    if all_files:
        if include:
            raise UsageError("Pass all_files or include, not both.", next="Leave out one of them.")
        include = "*"
    selection = Selection(_patterns(include), _patterns(exclude), _folder(local_dir))
    format, exact = _format_of(name, format, runtime, exact=exact, selects=bool(include or exclude))
    options = ResolveOptions(
        format, exact, revision, prefer or found.prefer, mmproj=mmproj, any_publisher=any_publisher,
        runtime=runtime, fit=fit, context=context,
    )  # fmt: skip
    if selection or options.is_stored or _has_variant(name):
        found = found if offline is None else found._replace(offline=offline)
        return _pull_files(
            name, options, selection, found,
            token=token, locked=locked, dry_run=dry_run, progress=progress,
        )  # fmt: skip
    request = LoadRequest(
        name, format, exact, base, revision, prefer=prefer, locked=locked, token=token,
        allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, offline=offline,
    )  # fmt: skip
    return _pull_model(request, settings, repair=repair, dry_run=dry_run, progress=progress)


def _pull_model(
    request: LoadRequest,
    settings: Settings | None,
    *,
    repair: bool,
    dry_run: bool,
    progress: Progress | None,
) -> Pulled:
    """Pull what loading a model needs."""
    located = locate_model(
        request, settings, purpose="pull", download_adapter=not dry_run, progress=progress
    )
    if dry_run:
        return _pulled(request.name, located, located.checkpoint, None, dry_run=True)
    repaired = _repair(located) if repair else None
    checkpoint = fetch_model(located, progress).checkpoint
    return _pulled(request.name, located, checkpoint, repaired, dry_run=False)


def _pulled(
    name: str,
    located: LocatedModel,
    checkpoint: Checkpoint | None,
    repaired: tuple[str, ...] | None,
    *,
    dry_run: bool,
) -> Pulled:
    """What was pulled of a model, or would be; `checkpoint` is None if it is not here yet."""
    download = located.download
    if checkpoint is not None:
        files = checkpoint.files.all
    else:
        files = tuple(file.path for file in download.files) if download is not None else ()
    return Pulled(
        requested=name,
        repo_id=located.repo_id,
        commit=located.commit,
        path=None if dry_run or checkpoint is None else checkpoint.folder,
        files=files,
        **_transferred(download),
        adapter=None if located.adapter is None else located.adapter.to_json(),
        repaired=repaired,
        left_out=download.left_out if download is not None else (),
    )


def _pull_files(
    name: str,
    options: ResolveOptions,
    selection: Selection,
    settings: Settings,
    **how: Any,
) -> Pulled:
    """Pull a stored format, or selected files."""
    done = pull_files(name, options, selection, settings, **how)
    resolution = done.resolution
    return Pulled(
        requested=name,
        repo_id=resolution.repo_id,
        commit=done.commit,
        path=done.path,
        files=done.files,
        **_transferred(done.download),
        adapter=None,
        repaired=None,
        format=resolution.label,
        left_out=done.left_out,
    )


def _transferred(download: Download | None) -> dict[str, Any]:
    """What came from where, as a `Pulled` has it."""
    if download is None:
        return {"downloaded": (), "bytes": 0}
    return {
        "downloaded": download.to_download,
        "bytes": download.bytes,
        "resumed": download.kept,
        "copied": tuple(file.path for file in download.copied),
    }


def _format_of(
    name: str, format: str | None, runtime: str | None, *, exact: bool, selects: bool
) -> tuple[str, bool]:
    """The format to pull, and whether of this very repository.

    Without a format, it is the stored format that the name itself names, else 16-bit.
    """
    if format is not None and runtime is None:
        return format, exact
    if runtime is None:
        format = named_format(name)
    return format or "16bit", exact or selects


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _folder(given: StrPath | None) -> Path | None:
    return Path(given) if given else None


def _has_variant(name: str) -> bool:
    return ":" in name and parse_name(name, allow_variant=True).variant is not None


def _repair(located: LocatedModel) -> tuple[str, ...]:
    """Repair a model's snapshot, and its adapter's if that was downloaded too."""
    repaired = repair_snapshot(located)
    if located.adapter is not None and located.adapter.origin is not None:
        repaired += repair_snapshot(located.adapter.origin)
    return tuple(repaired)
