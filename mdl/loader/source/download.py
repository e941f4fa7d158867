"""What to download: the files of a commit that a model needs and the cache lacks."""

import contextlib
import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdl.cachemgr import folder_name
from mdl.errors import LoadError
from mdl.formats import read_gguf_header
from mdl.hub_http import hub_errors, within
from mdl.loader.checkpoint import (
    GGUF_CONFIG,
    MAX_JSON,
    Header,
    damaged_file,
    header_length,
    parse_header,
    parse_json,
)
from mdl.loader.request import LoadRequest
from mdl.model_files import CONFIG, ModelFiles, ReadJson, WeightFiles, choose_files
from mdl.settings import Settings

_LONGEST = 120.0  # seconds for what is not a file: a page of a listing, a range
FIRST_READ = 1_000_000  # bytes of a GGUF file: its header is mostly the vocabulary


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit on the Hub: its size in bytes, and its blob's name in the cache.

    `git_sha1` names it in git (an LFS file's pointer), `xet_hash` in Xet's store, if it is there.
    """

    path: str
    size: int
    etag: str
    git_sha1: str = ""
    xet_hash: str | None = None


@dataclass(frozen=True)
class Download:
    """The files a model needs at one commit, those of them that are not in the cache, and what is
    in its config.json (empty for an adapter)."""

    repo_id: str
    commit: str
    files: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]
    needed: ModelFiles
    local_dir: Path | None = None  # where to, instead of the cache
    config: Mapping[str, Any] = field(default_factory=dict)
    listing: tuple[RemoteFile, ...] = ()  # all files of the commit
    kept: int = 0  # bytes of the missing files that an interrupted download left
    copied: tuple[RemoteFile, ...] = ()  # missing files that come from the cache to `local_dir`

    @property
    def gguf(self) -> str | None:
        """The GGUF file to load, if it is one."""
        return next((f for f in self.needed.weights.files if f.lower().endswith(".gguf")), None)

    @property
    def size(self) -> int:
        """Bytes of the missing files."""
        return self._size_of(self.missing)

    @property
    def bytes(self) -> int:
        """Bytes to download: of the missing files what is neither kept nor copied."""
        return self.size - self.kept - self._size_of(self.copied)

    @property
    def to_download(self) -> tuple[str, ...]:
        """The missing files that are downloaded, at least in part."""
        return tuple(file.path for file in self.missing if file not in self.copied)

    def _size_of(self, files: Iterable[RemoteFile]) -> int:
        """Bytes of files; the cache keeps the same content once."""
        once = {file.path if self.local_dir else file.etag: file.size for file in files}
        return sum(once.values())

    @property
    def left_out(self) -> tuple[str, ...]:
        """The other files of the commit, the largest first."""
        others = set(self.listing) - set(self.files)
        return tuple(file.path for file in sorted(others, key=lambda f: (-f.size, f.path)))

    @property
    def weight_bytes(self) -> int:
        """Size of all weight files."""
        return sum(file.size for file in self.files if file.path in self.needed.weights.files)


@dataclass(frozen=True)
class HubAccess:
    """Which Hub to use, and with which token; `token` False is anonymous."""

    settings: Settings
    token: str | bool | None = None

    @property
    def options(self) -> dict[str, Any]:
        token = self.settings.token_for(self.token)
        return {"endpoint": self.settings.endpoint, "token": token or False}

    def folder_of(self, repo_id: str) -> Path:
        """The cache's folder for a model repository."""
        return Path(self.settings.cache_root) / folder_name(repo_id)


def plan_download(
    hub: HubAccess, repo_id: str, commit: str, request: LoadRequest, gguf: str | None = None
) -> Download:
    """List a commit's files (one request to the Hub) and choose those the model needs.

    Args:
        gguf: the one file that is needed of a GGUF repository.

    Raises:
        LoadError: the repository is not a model that can be loaded, or the file is gone.
        NotFoundError, NoAccessError, OfflineError: the Hub cannot list it.
    """
    rows = list_files(hub, repo_id, commit)
    blobs = hub.folder_of(repo_id) / "blobs"
    read = json_reader(hub, rows, repo_id, commit)
    if gguf is None:
        how = {"pickles": request.allow_pickle, "code": request.trust_remote_code}
        needed = choose_files(rows, read, **how)
    else:
        gone = () if gguf in rows else (gguf,)
        needed = ModelFiles(WeightFiles((gguf,), "an earlier listing", gone), ())
    if needed.weights.missing:
        raise _not_uploaded(repo_id, needed.weights)
    files = tuple(rows[path] for path in needed.all)
    missing = tuple(file for file in files if not (blobs / file.etag).exists())
    config = GGUF_CONFIG if gguf else {} if needed.adapter else read(CONFIG)
    return Download(
        repo_id, commit, files, missing, needed, config=config, listing=tuple(rows.values())
    )


def json_reader(
    hub: HubAccess, rows: Mapping[str, RemoteFile], repo_id: str, commit: str
) -> ReadJson:
    """Reads the JSON of a commit's files, from the cache or else from the Hub."""

    @functools.cache
    def read(path: str) -> Any:
        row = rows[path]
        if row.size > MAX_JSON:
            raise damaged_file(f"{repo_id}/{path}", f"It has {row.size} bytes.")
        blob = hub.folder_of(repo_id) / "blobs" / row.etag
        with contextlib.suppress(OSError):
            if blob.stat().st_size == row.size:
                return parse_json(blob.read_bytes(), blob)
        with hub_errors(repo_id):
            data = _read_range(hub, repo_id, commit, path, 0, row.size) if row.size else b""
        return parse_json(data, f"{repo_id}/{path}")

    return read


def _not_uploaded(repo_id: str, weights: WeightFiles) -> LoadError:
    missing = weights.missing
    more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
    return LoadError(
        f"{repo_id} lacks {missing[0]}{more}.",
        why=f"{weights.named_by or 'config.json'} names it, but it was not uploaded.",
        next="Load another revision, or ask the author to upload it.",
        details={"missing": list(missing)},
    )


def list_files(hub: HubAccess, repo_id: str, commit: str) -> dict[str, RemoteFile]:
    """A commit's files by path (one request to the Hub).

    Raises:
        NotFoundError, NoAccessError, OfflineError: the Hub cannot list them.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with hub_errors(repo_id), within(_LONGEST):
        tree = HfApi(**hub.options).list_repo_tree(repo_id, recursive=True, revision=commit)
        return {
            row.path: RemoteFile(
                row.path,
                row.size,
                row.lfs.sha256 if row.lfs else row.blob_id,
                row.blob_id,
                row.xet_hash,
            )
            for row in tree
            if isinstance(row, RepoFile)
        }


def download_gguf_header(hub: HubAccess, download: Download, folder: Path) -> None:
    """Write a GGUF file to a folder outside the cache: its header, then a hole to its full size.

    Raises:
        MdlError: as `download_files`.
    """
    file = download.files[0]
    count = FIRST_READ
    with hub_errors(download.repo_id):
        while True:
            data = _read_range(hub, download.repo_id, download.commit, file.path, 0, count)
            if count >= file.size or _is_whole_header(data):
                break
            count *= 8
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    os.truncate(target, file.size)


def _is_whole_header(data: bytes) -> bool:
    try:
        return read_gguf_header(data) is not None
    except ValueError:
        return True  # more of it would not help; whoever opens it says why


def read_remote_header(hub: HubAccess, download: Download, name: str) -> Header:
    """Read the header of a weight file on the Hub with range requests, and check it.

    Raises:
        VerificationError: the header does not match the file.
        MdlError: as `download_files`.
    """
    size = next(file.size for file in download.files if file.path == name)
    with hub_errors(download.repo_id):
        repo_id, commit = download.repo_id, download.commit
        length = header_length(_read_range(hub, repo_id, commit, name, 0, 8), size, name)
        text = _read_range(hub, repo_id, commit, name, 8, length)
    return parse_header(text, size - 8 - length, name)


def remote_tensor_names(hub: HubAccess, download: Download) -> tuple[str, ...]:
    """The names of a model's tensors: of its index, or of the headers of its files; none of
    pickles without an index.

    Raises:
        VerificationError: a header does not match its file.
        MdlError: as `download_files`.
    """
    weights = download.needed.weights
    if weights.named_by:
        rows = {file.path: file for file in download.files}
        read = json_reader(hub, rows, download.repo_id, download.commit)
        return tuple(read(weights.named_by)["weight_map"])
    headers = [read_remote_header(hub, download, name) for name in weights.files
               if name.endswith(".safetensors")]  # fmt: skip
    return tuple(tensor.name for header in headers for tensor in header.tensors)


def _read_range(
    hub: HubAccess, repo_id: str, commit: str, path: str, start: int, count: int
) -> bytes:
    """`count` bytes of a file on the Hub, from `start`."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    options = hub.options
    url = hf_hub_url(repo_id, path, revision=commit, endpoint=options["endpoint"])
    headers = build_hf_headers(token=options["token"])
    headers["Range"] = f"bytes={start}-{start + count - 1}"
    with within(_LONGEST):
        response = get_session().get(url, headers=headers)
    hf_raise_for_status(response)
    body: bytes = response.content
    return body[:count]
