"""Files for callers: from the cache where they are, and through it where they are not yet."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin

from mdl.cachemgr import Cache, folder_name, repo_key
from mdl.cachemgr.fill import (
    BlobFill,
    Fetched,
    SnapshotFile,
    add_file,
    known_missing,
    local_file,
    record_missing,
    write_ref,
)
from mdl.errors import MdlError
from mdl.hub_server.download import Download
from mdl.hub_server.knowledge import Caller, Expiring, Repo, refusal_of
from mdl.hub_server.metrics import HubMetrics
from mdl.hub_server.responses import PLAIN_LIMIT, HubRefusal
from mdl.hub_server.upstream import Upstream
from mdl.settings import Settings

_FILLS = 32  # downloads at once; further ones wait
_DESCRIBED = 60.0  # seconds for which a file's description, and a signed address, are used
_USED = 60.0  # seconds between two records of use of one revision
_XET_HEADERS = ("x-xet-hash", "x-xet-refresh-route", "x-xet-cas-url")


class RemoteFile(NamedTuple):
    """A file as the Hub describes it: its blob's name, its size in bytes, where its bytes are.

    `xet` has the headers by which clients fetch it from Xet, where it is too large without.
    """

    etag: str
    size: int
    commit: str
    url: str
    xet: tuple[tuple[str, str], ...] = ()


class Filling(NamedTuple):
    """A file that is on its way."""

    fill: BlobFill
    remote: RemoteFile
    repo: Repo
    path: str


class Files:
    """The cache's files, and the downloads that are under way."""

    def __init__(self, settings: Settings, upstream: Upstream, metrics: HubMetrics) -> None:
        self._settings, self._upstream, self._metrics = settings, upstream, metrics
        self._root = Path(settings.cache_root)
        self._described = Expiring[RemoteFile]()
        self._folders: dict[str, Path] = {}
        self._used = Expiring[bool]()
        self._cache = Cache(settings)
        self._downloads: dict[tuple[Path, str], Download] = {}
        self._guard = threading.Lock()
        self._threads = ThreadPoolExecutor(_FILLS, thread_name_prefix="mdl-fill")

    def close(self) -> None:
        """Stop the downloads at their next bytes; what has arrived is kept and resumed."""
        for download in self.downloads():
            download.fill.stop()
        self._threads.shutdown(cancel_futures=True)

    def folder(self, repo_type: str, repo_id: str) -> Path:
        """A repository's folder: the one that is there in any casing, else the Hub's spelling."""
        key = repo_key(repo_type, repo_id)
        known = self._folders.get(key)
        if known is not None and known.exists():
            return known
        exact = self._root / folder_name(repo_id, repo_type)
        found = exact
        if not exact.exists():
            wanted = exact.name.casefold()
            with contextlib.suppress(OSError):
                there = sorted(f for f in self._root.iterdir() if f.name.casefold() == wanted)
                found = there[0] if there else exact
        self._folders[key] = found
        return found

    # -- what is here -----------------------------------------------------------------------

    def here(self, repo: Repo, commit: str, path: str) -> SnapshotFile | None:
        """The file, if the cache has it.

        Raises:
            HubRefusal: the Hub said that there is none.
        """
        folder = self.folder(repo.repo_type, repo.repo_id)
        found = local_file(folder, commit, path)
        if found is None and known_missing(folder, commit, path):
            raise no_entry(path, commit)
        return found

    def place(self, found: SnapshotFile) -> str:
        """Where the content of a file lies below the cache root."""
        return os.path.relpath(os.path.realpath(found.path), os.path.realpath(self._root))

    def record_use(self, repo: Repo, commit: str) -> None:
        """Have the cache manager know that a revision is used; once a minute is enough."""
        key = (repo.repo_type, repo.repo_id, commit)
        if self._used.peek(key, _USED) is None:
            self._used.put(key, True)
            with contextlib.suppress(MdlError, OSError):
                self._cache.record_use(repo.repo_id, commit, repo.repo_type)

    # -- what is on the Hub -----------------------------------------------------------------

    def fetch(
        self, repo: Repo, revision: str, commit: str, path: str, caller: Caller
    ) -> SnapshotFile | Filling | RemoteFile:
        """A file that is not here: found under its hash, or on its way from now on.

        A `RemoteFile` is one that clients have to get from Xet. Blocks for a request upstream.

        Raises:
            HubRefusal: the Hub refuses it.
            OfflineError: the Hub does not answer.
        """
        remote = self.describe(repo, commit, path, caller)
        folder = self.folder(repo.repo_type, repo.repo_id)
        with contextlib.suppress(OSError):  # a cache that cannot be written to is read all the same
            write_ref(folder, revision, commit)
        if (folder / "blobs" / remote.etag).exists():
            with contextlib.suppress(OSError):
                return add_file(folder, commit, path, remote.etag)
        if remote.xet:
            return remote
        return Filling(self._join(folder, remote, repo, path, caller), remote, repo, path)

    def describe(self, repo: Repo, commit: str, path: str, caller: Caller) -> RemoteFile:
        """What the Hub says of a file: at most one request a minute.

        Raises:
            HubRefusal, OfflineError: as `fetch`.
        """
        who = caller.mark if repo.restricted else None
        key = (repo.key, commit, path, who)
        return self._described.get(key, _DESCRIBED, lambda: self._ask(repo, commit, path, caller))

    def _ask(self, repo: Repo, commit: str, path: str, caller: Caller) -> RemoteFile:
        prefix = "" if repo.repo_type == "model" else f"{repo.repo_type}s/"
        target = f"/{prefix}{repo.repo_id}/resolve/{commit}/{quote(path)}"
        reply = self._upstream.ask("HEAD", target, caller.token, {"accept-encoding": "identity"})
        headers = reply.headers
        if reply.status >= 400:
            refusal = refusal_of(reply)
            if refusal.code == "EntryNotFound":
                with contextlib.suppress(OSError):
                    record_missing(self.folder(repo.repo_type, repo.repo_id), commit, path)
                refusal.headers["x-repo-commit"] = commit
            raise refusal
        etag = (headers.get("x-linked-etag") or headers.get("etag") or "").removeprefix("W/")
        size = headers.get("x-linked-size") or headers.get("content-length")
        if not size or not size.isdigit() or not etag.strip('"').isalnum():
            raise HubRefusal(502, f"The Hub does not say what {path} is.")
        xet: tuple[tuple[str, str], ...] = ()
        if int(size) > PLAIN_LIMIT:
            xet = tuple((name, headers[name]) for name in _XET_HEADERS if name in headers)
        url = urljoin(reply.url, headers.get("location", ""))
        return RemoteFile(etag.strip('"'), int(size), commit, url, xet)

    # -- downloads --------------------------------------------------------------------------

    def downloads(self) -> list[Download]:
        """Those under way, the oldest first."""
        with self._guard:
            return list(self._downloads.values())

    def _join(
        self, folder: Path, remote: RemoteFile, repo: Repo, path: str, caller: Caller
    ) -> BlobFill:
        """The download of this blob: the one under way, or a new one."""
        key = (folder, remote.etag)
        name = (folder, remote.commit, path)
        with self._guard:
            known = self._downloads.get(key)
            if known is not None:
                known.add(name, caller.address)
                self._metrics.joins.inc()
                return known.fill
            download = Download(repo)
            download.add(name, caller.address)

            def arrived(count: int) -> None:
                self._metrics.bytes_in.inc(count)
                download.speed.add(count)

            download.fill = BlobFill(
                self._root, folder.name, remote.etag, remote.size,
                lambda start: self._upstream.file(remote.url, caller.token, start),
                arrived=arrived,
            )  # fmt: skip
            self._downloads[key] = download
        self._metrics.fills.inc()
        self._threads.submit(self._run, key, download.fill)
        return download.fill

    def _run(self, key: tuple[Path, str], fill: BlobFill) -> None:
        fill.run(lambda: self._name(key))
        with self._guard:  # of one that failed
            self._downloads.pop(key, None)

    def _name(self, key: tuple[Path, str]) -> None:
        """Give the blob its names, before its last reader has it whole."""
        with self._guard:
            download = self._downloads.pop(key)
        for folder, commit, path in download.names:
            add_file(folder, commit, path, key[1])

    def straight(
        self, remote: RemoteFile, caller: Caller, first: int, stop: int
    ) -> contextlib.AbstractContextManager[Fetched]:
        """Bytes from the Hub that are not kept: a range ahead of its download, or a full disk."""
        return self._upstream.file(remote.url, caller.token, first, stop)


def no_entry(path: str, commit: str) -> HubRefusal:
    """The refusal for a file that a commit does not have; clients remember it by the commit."""
    return HubRefusal(404, f"{path} is not in this revision.", "EntryNotFound",
                      {"x-repo-commit": commit})  # fmt: skip
