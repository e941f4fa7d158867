"""`mdl.pull`: download the files a model needs, and say where they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.loader.adapter import find_adapter
from mdl.loader.progress import Progress
from mdl.loader.request import LoadRequest
from mdl.loader.source import fetch_model
from mdl.loader.verify import repair_snapshot
from mdl.settings import Settings, load_settings


@dataclass(frozen=True)
class Pulled:
    """A model's files on this machine, or with `dry_run` what a pull would download.

    Attributes:
        path: the snapshot folder (of an adapter's name: its base model's); None after a dry run.
        files: what the model consists of, as paths below `path`.
        downloaded: those of them that were (or would be) downloaded.
        bytes: the size of the download.
        adapter: the adapter that was named, as a report keeps it.
        repaired: files whose content was damaged and was downloaded again; None unless asked for.
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
        locked: a lock file; what is pulled must be exactly what it names.
        allow_pickle: take pickled weights where there are no others; loading them can run code.
        trust_remote_code: download the repository's own Python too.
        repair: check the hash of every file that is here, and download damaged ones again.
        dry_run: download nothing.
        progress: is told how far the download is.

    Returns:
        The snapshot folder, for any other tool, and what was downloaded.

    Raises:
        MdlError: as `mdl.resolve`; and a download that fails, which leaves the cache as it was.
    """
    settings = settings or load_settings()
    asked = LoadRequest(
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
    request, found, adapter = find_adapter(
        asked, settings, purpose="pull", fetch=not dry_run, progress=progress
    )
    source, download = found.source, found.source.download
    repaired, checkpoint = None, source.checkpoint
    if not dry_run:
        if repair:
            repaired = repair_snapshot(found, request)
            if adapter is not None and adapter.origin is not None:
                repaired += repair_snapshot(adapter.origin, asked)
        checkpoint = fetch_model(found, request, progress)
    if checkpoint is not None:
        files = tuple(checkpoint.files.all)
    else:
        files = tuple(file.path for file in download.files) if download is not None else ()
    return Pulled(
        requested=name,
        repo_id=source.repo_id,
        commit=source.commit,
        path=None if dry_run or checkpoint is None else checkpoint.folder,
        files=files,
        downloaded=tuple(file.path for file in download.missing) if download is not None else (),
        bytes=source.bytes_to_fetch,
        adapter=None if adapter is None else adapter.to_json(),
        repaired=None if repaired is None else tuple(repaired),
    )
