"""Downloading the files of a commit, by range or through huggingface_hub, in parallel.

A disk too small for them is reported first.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from mdl.hub_http import http_library, hub_errors
from mdl.loader.disk import check_space
from mdl.loader.progress import Progress
from mdl.loader.source.by_range import fill_file, fills
from mdl.loader.source.download import Download, HubAccess, RemoteFile

WORKERS = 4  # files downloaded in parallel
ATTEMPTS = 3  # huggingface_hub does not retry when a connection breaks in the middle of a file
_INTERRUPTED = "what has arrived is kept; run it again to go on from there"


def download_files(hub: HubAccess, download: Download, progress: Progress | None = None) -> Path:
    """Download the missing files and return the snapshot folder.

    Small files come first, so that a snapshot with all its weights is complete.

    Raises:
        DiskError: the disk is too small (checked first), or filled up.
        NotFoundError, NoAccessError, OfflineError, MdlError: the Hub or the network failed.
    """
    folder = download.local_dir or hub.settings.cache_root
    check_space(folder, download.size - download.kept, cache=download.local_dir is None)
    progress = progress or Progress()
    with (
        hub_errors(download.repo_id),
        progress.tracking_connections(),
        progress.downloading(download.size),
    ):
        for paths in (
            download.needed.rest,
            download.needed.beside,
            download.needed.weights.files,
        ):
            _download_in_parallel(hub, download, paths, progress)
    if download.local_dir is not None:
        return download.local_dir
    _write_listing(hub.folder_of(download.repo_id), download)
    return hub.folder_of(download.repo_id) / "snapshots" / download.commit


def _write_listing(folder: Path, download: Download) -> None:
    """Leave `trees/<commit>.json` behind as `snapshot_download` does: what each file must be."""
    from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

    entries = {}
    for file in download.listing:
        lfs = file.etag if file.etag != file.git_sha1 else None
        entries[file.path] = TreeCacheEntry(
            file.size, file.git_sha1, lfs, file.size if lfs else None, file.xet_hash
        )
    if entries:
        write_tree_cache(str(folder), download.commit, entries)


def _download_in_parallel(
    hub: HubAccess, download: Download, paths: Sequence[str], progress: Progress
) -> None:
    """Download files in parallel. An interrupt or a failure stops the others promptly."""
    files = [file for file in download.files if file.path in paths]
    once = {file.etag: file for file in files}
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="mdl-download")
    running: list[Future[None]] = []
    try:
        for file in once.values():  # not pool.map: an interrupt must find these in `running`
            running.append(pool.submit(_download, hub, download, file, progress))
        for done in as_completed(running):
            done.result()
    except BaseException as error:
        progress.cancel()
        # One that waits for a connection cannot be stopped: an interrupt does not wait for it.
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(_INTERRUPTED) from None
        raise
    pool.shutdown()
    for file in files:  # other names of the same content
        if once[file.etag] is not file:
            _download(hub, download, file, progress)


def _download(hub: HubAccess, download: Download, file: RemoteFile, progress: Progress) -> None:
    if fills(hub, download, file):
        fill_file(hub, download, file, progress)
    else:
        _download_with_retries(hub, download, file.path, progress)
        if file in download.copied:
            progress.skip(file.size)


def _download_with_retries(
    hub: HubAccess, download: Download, path: str, progress: Progress
) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download_file(hub, download, path, progress)
            return
        except HfHubHTTPError as error:
            if error.response.status_code < 500 or attempt == ATTEMPTS:
                raise
        except (ConnectionError, http_library().HTTPError):
            if attempt == ATTEMPTS:
                raise


def _download_file(
    hub: HubAccess, download: Download, path: str, progress: Progress, **options: Any
) -> None:
    """Download one file into the cache, or to the `local_dir` among the options."""
    from huggingface_hub import hf_hub_download

    if download.local_dir is not None:
        options = {"local_dir": download.local_dir, **options}
    hf_hub_download(
        download.repo_id,
        path,
        revision=download.commit,
        cache_dir=Path(hub.settings.cache_root),
        tqdm_class=progress.bar_class(),
        **hub.options,
        **options,
    )


def download_small_files(hub: HubAccess, download: Download, folder: Path) -> None:
    """Download everything but the weights to a folder outside the cache, for planning.

    Raises:
        MdlError: as `download_files`.
    """
    with hub_errors(download.repo_id):
        for path in download.needed.rest:
            _download_file(hub, download, path, Progress(), local_dir=folder)


def download_again(hub: HubAccess, download: Download, damaged: Sequence[str]) -> None:
    """Download damaged files again; each is replaced when its download is complete.

    Raises:
        MdlError: as `download_files`.
    """
    sizes = {file.path: file.size for file in download.files}
    check_space(hub.settings.cache_root, sum(sizes[path] for path in damaged))
    with hub_errors(download.repo_id):
        for path in damaged:
            _download_file(hub, download, path, Progress(), force_download=True)
