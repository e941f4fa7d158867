"""Downloading what a model needs, at one commit, through huggingface_hub.

Nothing that is here is fetched again, nothing that is not needed is fetched at all, and a full
disk is said before the first byte.
"""

import contextlib
import errno
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.errors import (
    DiskError,
    LoadError,
    MdlError,
    NoAccessError,
    NotFoundError,
    OfflineError,
)
from mdl.hub_http import http_library
from mdl.loader.checkpoint import Needed, choose_files
from mdl.loader.progress import Progress
from mdl.settings import Settings, StrPath

WORKERS = 4  # files fetched at once
ATTEMPTS = 3  # a connection that breaks in the middle of a file is not retried by the client
RESERVE = 64 << 20  # bytes of the disk that a download leaves free


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit on the Hub: its size in bytes and the name its blob has in the cache."""

    path: str
    size: int
    etag: str


@dataclass(frozen=True)
class Download:
    """What a pull would do: the files needed at one commit, and those of them not here yet."""

    repo_id: str
    commit: str
    files: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]
    needed: Needed

    @property
    def bytes(self) -> int:
        """Bytes to fetch."""
        return sum({file.etag: file.size for file in self.missing}.values())

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        return {
            "repo_id": self.repo_id,
            "commit": self.commit,
            "bytes": self.bytes,
            "total_bytes": self.total_bytes,
            "files": [{"path": f.path, "size": f.size} for f in self.files],
            "missing": [f.path for f in self.missing],
        }


@dataclass(frozen=True)
class HubAccess:
    """Where to download from, and as whom. `token` False is anonymous."""

    settings: Settings
    token: str | bool | None = None

    @property
    def options(self) -> dict[str, Any]:
        token = self.settings.token_for(self.token)
        return {"endpoint": self.settings.endpoint, "token": token or False}


def plan_download(
    hub: HubAccess,
    repo_id: str,
    commit: str,
    *,
    allow_pickle: bool = False,
    remote_code: bool = False,
) -> Download:
    """List a commit's files (one request) and choose those a model needs.

    Raises:
        LoadError: the repository is not a model that may be loaded.
        NotFoundError, NoAccessError, OfflineError: as the Hub answers.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with hub_errors(repo_id):
        api = HfApi(**hub.options)
        rows = {
            row.path: RemoteFile(row.path, row.size, row.lfs.sha256 if row.lfs else row.blob_id)
            for row in api.list_repo_tree(repo_id, recursive=True, revision=commit)
            if isinstance(row, RepoFile)
        }
    needed = choose_files(rows, allow_pickle=allow_pickle, remote_code=remote_code)
    files = tuple(rows[path] for path in needed.all)
    blobs = storage_folder(hub.settings.cache_root, repo_id) / "blobs"
    missing = tuple(file for file in files if not (blobs / file.etag).exists())
    return Download(repo_id, commit, files, missing, needed)


def fetch(hub: HubAccess, download: Download, *, progress: Progress | None = None) -> Path:
    """Download what is missing and return the snapshot folder.

    Small files come first: weights that are whole mean a snapshot that is.

    Raises:
        DiskError: the disk is too small, before a byte is fetched, or became full.
        NotFoundError, NoAccessError, OfflineError, MdlError: as the Hub answers.
    """
    check_space(hub.settings.cache_root, download.bytes)
    weights = [file.path for file in download.files if file.path in download.needed.weights]
    small = [file.path for file in download.files if file.path not in download.needed.weights]
    progress = progress or Progress()
    with (
        hub_errors(download.repo_id),
        progress.watching(),
        progress.fetching(download.bytes),
    ):
        for paths in (small, weights):
            _fetch_together(hub, download, paths, progress)
    root = storage_folder(hub.settings.cache_root, download.repo_id)
    return root / "snapshots" / download.commit


def _fetch_together(
    hub: HubAccess, download: Download, paths: list[str], progress: Progress
) -> None:
    """Fetch some files at once. An interrupt or a failure stops the others promptly."""
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="mdl-fetch") as pool:
        running: list[Future[None]] = []
        try:
            for path in paths:  # one by one: an interrupt in between stops those handed over
                running.append(pool.submit(_fetch_one, hub, download, path, progress))
            for done in as_completed(running):
                done.result()
        except BaseException:
            progress.cancel()
            for waiting in running:
                waiting.cancel()
            raise


def _fetch_one(hub: HubAccess, download: Download, path: str, progress: Progress) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(1, ATTEMPTS + 1):
        try:
            hf_hub_download(
                download.repo_id,
                path,
                revision=download.commit,
                cache_dir=Path(hub.settings.cache_root),
                tqdm_class=progress.bar_class(),
                **hub.options,
            )
            return
        except HfHubHTTPError as error:
            if error.response.status_code < 500 or attempt == ATTEMPTS:
                raise
        except OSError as error:
            if not isinstance(error, ConnectionError) or attempt == ATTEMPTS:
                raise
        except Exception as error:
            if not _is_connection_error(error) or attempt == ATTEMPTS:
                raise


def fetch_small(hub: HubAccess, download: Download, scratch: Path) -> Path:
    """A folder with the small files alone, for planning: the cache is left as it is.

    Raises:
        as `fetch`.
    """
    from huggingface_hub import hf_hub_download

    with hub_errors(download.repo_id):
        for path in download.needed.rest:
            hf_hub_download(
                download.repo_id,
                path,
                revision=download.commit,
                local_dir=scratch,
                tqdm_class=Progress().bar_class(),
                **hub.options,
            )
    return scratch


def read_range(hub: HubAccess, download: Download, path: str, start: int, count: int) -> bytes:
    """`count` bytes of a file on the Hub from `start` on."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    options = hub.options
    url = hf_hub_url(download.repo_id, path, revision=download.commit, endpoint=options["endpoint"])
    headers = build_hf_headers(token=options["token"])
    headers["Range"] = f"bytes={start}-{start + count - 1}"
    response = get_session().get(url, headers=headers)
    hf_raise_for_status(response)
    body: bytes = response.content
    return body[:count]


def repair(hub: HubAccess, download: Download, damaged: Sequence[str]) -> None:
    """Fetch files again whose bytes are not what their names say. The old ones go only then.

    Raises:
        as `fetch`.
    """
    from huggingface_hub import hf_hub_download

    sizes = {file.path: file.size for file in download.files}
    check_space(hub.settings.cache_root, sum(sizes[path] for path in damaged))
    with hub_errors(download.repo_id):
        for path in damaged:
            hf_hub_download(
                download.repo_id,
                path,
                revision=download.commit,
                cache_dir=Path(hub.settings.cache_root),
                force_download=True,
                tqdm_class=Progress().bar_class(),
                **hub.options,
            )


def check_space(folder: StrPath, needed: int) -> None:
    """Refuse a download that cannot fit.

    Raises:
        DiskError: fewer bytes are free on the folder's disk than needed, plus a reserve.
    """
    free = shutil.disk_usage(existing(folder)).free
    if needed and needed + RESERVE > free:
        raise too_full(folder, free, needed)


def too_full(folder: StrPath, free: int, needed: int) -> DiskError:
    """The refusal of a download that the disk of `folder` has no room for; sizes in bytes."""
    return DiskError(
        f"The disk of {folder} has {free / 1e9:.2f} GB free and {needed / 1e9:.2f} GB are "
        "to be fetched.",
        why="The download would fill the disk.",
        next="Free some: `mdl cache prune --dry-run` shows what could go; or set HF_HUB_CACHE.",
        details={"free": free, "needed": needed},
    )


def existing(folder: StrPath) -> Path:
    """The folder, or the nearest one above it that is there."""
    there = Path(folder)
    while not there.exists():
        there = there.parent
    return there


def storage_folder(cache_root: StrPath, repo_id: str) -> Path:
    """Where huggingface_hub keeps a model repository of this spelling."""
    return Path(cache_root) / f"models--{repo_id.replace('/', '--')}"


@contextlib.contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Every refusal of the Hub and every failure on the way as an error a person can act on."""
    from huggingface_hub import errors

    http = http_library()
    try:
        yield
    except errors.GatedRepoError as error:
        raise NoAccessError(
            f"{repo_id} is gated and your token may not read it.",
            why=_server_message(error),
            next=f"Ask on its page (…/{repo_id}), or give another token with HF_TOKEN.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(
            f"{repo_id} has no such revision.",
            why=_server_message(error),
            next="See its branches and tags on its page.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFoundError(
            f"There is no repository {repo_id}, or it is private.",
            why=_server_message(error),
            next="Check the name; for a private repository set HF_TOKEN.",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, http.ConnectError,
            http.TimeoutException) as error:  # fmt: skip
        if isinstance(error.__cause__, errors.HfHubHTTPError):  # the Hub answered, with an error
            raise _http_error(repo_id, error.__cause__) from error
        raise OfflineError(
            f"{repo_id} is not wholly here and the Hub cannot be reached.",
            why=(str(error) or type(error).__name__).strip().splitlines()[0],
            next="Connect, or point HF_ENDPOINT at a Hub that answers.",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _http_error(repo_id, error) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskError(
                "The disk became full during the download.",
                why=str(error),
                next="Free some (`mdl cache prune --dry-run`) and run it again: what is complete "
                "stays.",
            ) from error
        raise
    except http.HTTPError as error:
        raise MdlError(
            f"The download of {repo_id} broke off.",
            why=f"{type(error).__name__}: {error}",
            next="Run it again: files that are complete are not fetched twice.",
        ) from error


def _http_error(repo_id: str, error: Any) -> MdlError:
    status = error.response.status_code
    if status in (401, 403):
        return NoAccessError(
            f"The Hub refuses {repo_id}.",
            why=_server_message(error),
            next="Check HF_TOKEN: it may be wrong or expired.",
        )
    again = "Wait a little and run it again: files that are complete are not fetched twice."
    return LoadError(
        f"The Hub answered {status} for {repo_id}.", why=_server_message(error), next=again
    )


def _server_message(error: Any) -> str:
    said = error.response.headers.get("X-Error-Message") if error.response is not None else None
    return str(said or str(error).strip().splitlines()[0])


def _is_connection_error(error: BaseException) -> bool:
    return isinstance(error, http_library().HTTPError)
