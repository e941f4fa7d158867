"""Files for callers: from the cache where they are, and through it where they are not yet."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
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
from mdl.errors import MdlError, OfflineError, VerificationError
from mdl.hub_server.download import Download
from mdl.hub_server.knowledge import Caller, Expiring, Repo, refusal_of
from mdl.hub_server.metrics import HubMetrics
from mdl.hub_server.requests import FileRequest
from mdl.hub_server.responses import PLAIN_LIMIT, HubRefusal
from mdl.hub_server.upstream import Reply, Upstream
from mdl.settings import Settings

log = logging.getLogger("mdl.hub")
_FILLS = 32  # downloads at once; further ones wait
_DESCRIBED = 60.0  # seconds for which a file's description, and a signed address, are used
_USED = 60.0  # seconds between two records of use of one revision
_DOUBTED = 3600.0  # seconds for which clients start a file anew whose download was wrong
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
    """A file that is not here: its download, if there is one, and whether others began it."""

    fill: BlobFill | None
    remote: RemoteFile
    repo: Repo
    path: str
    joined: bool = False


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
        self._doubted = Expiring[bool]()
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
        self, repo: Repo, revision: str, commit: str, path: str, caller: Caller, *, begin: bool
    ) -> SnapshotFile | Filling | RemoteFile:
        """A file that is not here: found under its hash, on its way, or on the Hub alone.

        A `RemoteFile` is one that clients have to get from Xet. Blocks for a request upstream.

        Args:
            begin: download it, if nobody does yet.

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
        return self._join(folder, remote, repo, path, caller, begin=begin)

    def describe(self, repo: Repo, commit: str, path: str, caller: Caller) -> RemoteFile:
        """What the Hub says of a file: at most one request a minute.

        Raises:
            HubRefusal, OfflineError: as `fetch`.
        """
        key = _description(repo, commit, path, caller)
        return self._described.get(key, _DESCRIBED, lambda: self._ask(repo, commit, path, caller))

    def refusal(self, request: FileRequest, caller: Caller) -> HubRefusal | None:
        """What the Hub says to one who asks for the file, if it refuses it."""
        reply = self._head(*request, caller)
        return refusal_of(reply) if reply.status >= 400 else None

    def _head(
        self, repo_type: str, repo_id: str, revision: str, path: str, caller: Caller
    ) -> Reply:
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        target = f"/{prefix}{repo_id}/resolve/{quote(revision, safe='')}/{quote(path)}"
        return self._upstream.ask("HEAD", target, caller.token, {"accept-encoding": "identity"})

    def _ask(self, repo: Repo, commit: str, path: str, caller: Caller) -> RemoteFile:
        reply = self._head(repo.repo_type, repo.repo_id, commit, path, caller)
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
        self, folder: Path, remote: RemoteFile, repo: Repo, path: str, caller: Caller,
        *, begin: bool,
    ) -> Filling:  # fmt: skip
        """The download of this blob: the one under way, or a new one."""
        key = (folder, remote.etag)
        name = (folder, remote.commit, path)
        with self._guard:
            known = self._downloads.get(key)
            if known is not None:
                known.add(name, caller.address)
                self._metrics.joins.inc()
                return Filling(known.fill, remote, repo, path, joined=True)
            if not begin:
                return Filling(None, remote, repo, path)
            download = Download(repo)
            download.add(name, caller.address)
            download.fill = BlobFill(
                self._root, folder.name, remote.etag, remote.size,
                lambda start: self.straight(remote, repo, path, caller, start),
                title=f"{repo.repo_id}/{path}", arrived=download.speed.add,
            )  # fmt: skip
            self._downloads[key] = download
        self._metrics.fills.inc()
        self._threads.submit(self._run, key, download.fill)
        return Filling(download.fill, remote, repo, path)

    def _run(self, key: tuple[Path, str], fill: BlobFill) -> None:
        try:
            fill.run(lambda: self._name(key))
        finally:
            if isinstance(fill.error, VerificationError):
                self.doubt(key[1])
            if fill.error is not None:
                self._metrics.failures.inc()
                log.warning("%s", fill.error)
            with self._guard:  # of one that failed
                self._downloads.pop(key, None)

    def _name(self, key: tuple[Path, str]) -> None:
        """Give the blob its names, before its last reader has it whole."""
        with self._guard:
            download = self._downloads.pop(key)
        for folder, commit, path in download.names:
            add_file(folder, commit, path, key[1])

    @contextlib.contextmanager
    def straight(
        self, remote: RemoteFile, repo: Repo, path: str, caller: Caller,
        first: int, stop: int | None = None,
    ) -> Iterator[Fetched]:  # fmt: skip
        """A file's bytes from the Hub, by an address that the Hub gave this caller a moment ago.

        Raises:
            ConnectionError: the connection fails.
            OfflineError: the Hub refuses it, or names another file now.
        """
        try:
            now = self.describe(repo, remote.commit, path, caller)
        except HubRefusal as refusal:
            if refusal.is_passing:
                raise ConnectionError(refusal.message) from refusal
            raise OfflineError(
                f"The Hub refuses {path}.", why=refusal.message, next="Try again."
            ) from refusal
        except OfflineError as error:
            raise ConnectionError(error.why) from error
        if now.etag != remote.etag:
            raise OfflineError(f"{path} is another file now.", next="Try again.")
        try:
            with self._upstream.file(now.url, caller.token, first, stop) as fetched:
                yield fetched._replace(chunks=self._counted(fetched.chunks))
        except Exception:
            # An address is signed for a time: the next attempt takes a fresh one.
            self._described.forget(_description(repo, remote.commit, path, caller))
            raise

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._metrics.bytes_in.inc(len(chunk))
            yield chunk

    def doubt(self, etag: str) -> None:
        """Have clients start this file anew: what they have of it may be wrong."""
        self._doubted.put(etag, True)

    def is_doubted(self, etag: str) -> bool:
        """Whether a download of this file was wrong within the last hour."""
        return self._doubted.peek(etag, _DOUBTED) is not None


def _description(repo: Repo, commit: str, path: str, caller: Caller) -> tuple[Any, ...]:
    """What a description is kept under: everyone's, or one caller's."""
    return repo.key, commit, path, caller.mark if repo.restricted else None


def no_entry(path: str, commit: str) -> HubRefusal:
    """The refusal for a file that a commit does not have; clients remember it by the commit."""
    return HubRefusal(404, f"{path} is not in this revision.", "EntryNotFound",
                      {"x-repo-commit": commit})  # fmt: skip
