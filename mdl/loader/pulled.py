"""`mdl.pull`: download the files a model needs, and return where they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.loader.progress import Progress
from mdl.loader.request import LoadRequest
from mdl.loader.source import LocatedModel, fetch_model, locate_model
from mdl.loader.verify import repair_snapshot
from mdl.settings import Settings


@dataclass(frozen=True)
class Pulled:
    """A model's files on this machine, or with `dry_run` what a pull would download.

    Attributes:
        path: the snapshot folder (for an adapter, its base model's); None after a dry run.
        files: the model's files, relative to `path`.
        downloaded: those that were (or would be) downloaded.
        bytes: the size of the download.
        adapter: the adapter that was requested, as in a report.
        repaired: damaged files that were downloaded again; None unless requested.
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

    @property
    def report(self) -> dict[str, Any]:
        """The object of `mdl pull --json`; its `files` are those downloaded."""
        body: dict[str, Any] = {
            "requested": self.requested,
            "repo_id": self.repo_id,
            "commit": self.commit,
            "bytes": self.bytes,
            "files": list(self.downloaded),
            "adapter": self.adapter,
            "done": self.path is not None,
        }
        if self.repaired is not None:
            body["repaired"] = list(self.repaired)
        if self.path is not None:
            body["path"] = str(self.path)
        return body


def pull(
    name: str,
    *,
    format: str = "16bit",
    exact: bool = False,
    revision: str | None = None,
    prefer: str | None = None,
    locked: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    repair: bool = False,
    dry_run: bool = False,
    token: str | bool | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> Pulled:
    """Download the files that a model needs, and no others, into the Hugging Face cache.

    Args:
        name: `org/name` in any casing, or a folder.
        format, exact, revision, prefer, token, offline, settings: as `mdl.resolve` takes them.
        locked: a lock file; the files must be exactly those it names.
        allow_pickle: accept pickled weights if there are no others; loading them can run code.
        trust_remote_code: download the repository's Python files too.
        repair: check the hash of every file in the cache, and download damaged ones again.
        dry_run: download nothing.
        progress: shows the progress of the download.

    Returns:
        The snapshot folder, for any other tool, and what was downloaded.

    Raises:
        MdlError: as `mdl.resolve`; and a download that fails, which leaves the cache as it was.
    """
    request = LoadRequest(
        name=name,
        format=format,
        exact_name=exact,
        revision=revision,
        prefer=prefer,
        locked=locked,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        token=token,
        offline=offline,
    )
    located = locate_model(
        request, settings, purpose="pull", download_adapter=not dry_run, progress=progress
    )
    adapter, download = located.adapter, located.download
    repaired, checkpoint = None, located.checkpoint
    if not dry_run:
        repaired = _repair(located) if repair else None
        checkpoint = fetch_model(located, progress).checkpoint
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
        downloaded=tuple(file.path for file in download.missing) if download is not None else (),
        bytes=located.bytes_to_download,
        adapter=None if adapter is None else adapter.to_json(),
        repaired=repaired,
    )


def _repair(located: LocatedModel) -> tuple[str, ...]:
    """Repair a model's snapshot, and its adapter's if that was downloaded too."""
    repaired = repair_snapshot(located)
    if located.adapter is not None and located.adapter.origin is not None:
        repaired += repair_snapshot(located.adapter.origin)
    return tuple(repaired)
