"""Downloading a file into the cache by range: it goes on from where an earlier run was stopped.

huggingface_hub names its temporary files anew each time, and so begins at zero. The layout, the
locks and the names of the finished files are its own: both may run at the same time.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mdl.cachemgr.fill import BlobFill, Fetched, Place, add_file, blob_place, open_file
from mdl.cachemgr.journal import payload_path
from mdl.errors import OfflineError, VerificationError
from mdl.hub_http import hub_errors, rate_limit_reset, wait_for_rate_limit
from mdl.loader.progress import Progress
from mdl.loader.source.download import Download, HubAccess, RemoteFile

_LARGEST = 50_000_000_000  # bytes that the Hub sends over HTTP; larger files only through Xet
_LONGEST_WAIT = 300.0  # seconds for a rate limit: the length of the Hub's window
log = logging.getLogger("mdl")


def fills(hub: HubAccess, download: Download, file: RemoteFile) -> bool:
    """Whether a file is downloaded by range; what this cannot do is left to huggingface_hub.

    That is a cache without symbolic links; files too large for HTTP; those whose content is in the
    cache's store already; all that have Xet where HF_XET_HIGH_PERFORMANCE asks for it; and outside
    the cache a file that is there, to be compared, or in the cache, to be copied.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import are_symlinks_supported

    root = str(hub.settings.cache_root)
    if file.size > _LARGEST or not hasattr(os, "pwrite"):
        return False
    if file.xet_hash is not None and not constants.HF_HUB_DISABLE_XET:
        fast = getattr(constants, "HF_XET_HIGH_PERFORMANCE", False)
        if fast or Path(payload_path(root, file.xet_hash)).exists():
            return False
    if download.local_dir is None:
        return are_symlinks_supported(root)
    blob = hub.folder_of(download.repo_id) / "blobs" / file.etag
    return not (blob.exists() or (download.local_dir / file.path).exists())


def count_kept(hub: HubAccess, download: Download) -> Download:
    """The download with what is on this machine already of its missing files."""
    snapshot = hub.folder_of(download.repo_id) / "snapshots" / download.commit
    kept, copied = {}, []
    for file in download.missing:
        if fills(hub, download, file):
            place = _place(hub, download, file)
            kept[place.partial] = _kept_bytes(place.partial, file.size)
        elif download.local_dir is not None and (snapshot / file.path).is_file():
            copied.append(file)
    return replace(download, kept=sum(kept.values()), copied=tuple(copied))


def _kept_bytes(partial: Path, size: int) -> int:
    """Bytes of a partial file from which a download goes on; one too large is begun anew."""
    try:
        here = partial.stat().st_size
    except OSError:
        return 0
    return here if here <= size else 0


def fill_file(hub: HubAccess, download: Download, file: RemoteFile, progress: Progress) -> None:
    """Download a file, or wait for whoever does; its hash is checked at the end.

    Raises:
        MdlError: the Hub, the network or the disk failed; what has arrived is kept.
        Cancelled: `progress` was cancelled.
    """
    folder = hub.folder_of(download.repo_id)
    title = f"{download.repo_id}/{file.path}"
    for last in (False, True):
        source = _Source(hub, download.repo_id, download.commit, file.path)
        fill = BlobFill(
            folder.parent, folder.name, file.etag, file.size, source.open, title=title,
            place=_place(hub, download, file),
            arrived=progress.advance, found=progress.skip, followed=progress.advance,
        )  # fmt: skip
        if not fill.path.exists():
            fill.run(lambda: None)
        if fill.error is None:
            _name(folder, download, file)
            return
        if source.refusal is not None and isinstance(fill.error, OfflineError):
            with hub_errors(download.repo_id):
                raise source.refusal
        if last or not (fill.resumed and isinstance(fill.error, VerificationError)):
            raise fill.error
        log.warning("%s: what an earlier download left is damaged; it is begun anew.", title)
        progress.skip(-fill.resumed)
        progress.advance(fill.resumed - fill.arrived)


def _place(hub: HubAccess, download: Download, file: RemoteFile) -> Place:
    """Where huggingface_hub keeps a file, its lock, and what has arrived."""
    if download.local_dir is None:
        folder = hub.folder_of(download.repo_id)
        return blob_place(folder.parent, folder.name, file.etag)
    from huggingface_hub._local_folder import get_local_download_paths

    paths = get_local_download_paths(download.local_dir, file.path)
    partial = paths.incomplete_path(f"{file.etag}.mdl")
    return Place(paths.file_path, partial, paths.lock_path)


def _name(folder: Path, download: Download, file: RemoteFile) -> None:
    """Note down what a downloaded file is, as huggingface_hub does."""
    if download.local_dir is None:
        add_file(folder, download.commit, file.path, file.etag)
        return
    from huggingface_hub._local_folder import write_download_metadata

    write_download_metadata(download.local_dir, file.path, download.commit, file.etag)


class _Source:
    """A file of a commit on the Hub, from any byte on.

    Each time the Hub is asked where it is: the address that it signs lasts for an hour, and a long
    download outlives it. `refusal` is the Hub's last fault, None if it did respond.
    """

    def __init__(self, hub: HubAccess, repo_id: str, commit: str, path: str) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        self._repo_id = repo_id
        self._url = hf_hub_url(repo_id, path, revision=commit, endpoint=hub.options["endpoint"])
        self._headers = build_hf_headers(token=hub.options["token"])
        self.refusal: Exception | None = None

    @contextlib.contextmanager
    def open(self, start: int) -> Iterator[Fetched]:
        """Open the file's bytes from `start` on.

        Raises:
            ConnectionError: it cannot be opened now.
            MdlError: the Hub refuses it.
        """
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError

        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        try:
            with open_file(self._url, self._headers, start, timeout=timeout) as fetched:
                self.refusal = None
                yield fetched
        except HfHubHTTPError as error:
            status, reset = error.response.status_code, rate_limit_reset(error)
            if status < 500 and (reset is None or reset > _LONGEST_WAIT):
                with hub_errors(self._repo_id):
                    raise
            self.refusal = error
            if reset is not None:
                wait_for_rate_limit(reset)
            raise ConnectionError(f"the Hub answers {status}") from error
