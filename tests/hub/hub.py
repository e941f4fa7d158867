"""`LoopbackHub`: a Hub on a loopback socket, its repositories, users and faults.

```python
with LoopbackHub() as hub:
    hub.add_user("hf_alice", "alice")
    hub.add_repo("Org/Name", files={"config.json": "{}"}, gated="manual",
                 access={"hf_alice": "granted"})
    HfApi(endpoint=hub.endpoint).model_info("Org/Name")
    hub.requests  # what was asked, by whom, and the status answered
```
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import threading
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.hub.faults import Fault, Request, rate_limited
from tests.hub.repos import Blob, Commit, Repo, folder_files, make_blob
from tests.hub.server import HubHandler
from tests.hub.sockets import HubServer

Files = Mapping[str, bytes | str | Path]


class LoopbackHub:
    """The Hub's state and two listening sockets: the Hub itself and its CDN, another origin."""

    def __init__(self, port: int = 0) -> None:
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}  # folded old id -> new id
        self.users: dict[str, str] = {}  # token -> name
        self.page_size = 1000
        self.sent = 0  # bytes of files
        self.errors: list[BaseException] = []
        self._faults: list[Fault] = []
        self._requests: list[Request] = []
        self._lock = threading.Lock()
        self._secret = secrets.token_bytes(16)
        self._servers = [
            HubServer(("127.0.0.1", port), HubHandler, self),
            HubServer(("127.0.0.1", 0), HubHandler, self),
        ]
        self.address, self.cdn = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)
        self.endpoint = self.address  # what clients are given
        self._threads = [self._serve(server) for server in self._servers]

    @staticmethod
    def _serve(server: ThreadingHTTPServer) -> threading.Thread:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        return thread

    def __enter__(self) -> LoopbackHub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, cut what is open, wait for every thread. Safe to call twice."""
        for fault in self._faults:
            fault.release()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.cut_connections()
            server.server_close()
            thread.join()

    # -- what is there -------------------------------------------------------------------------

    def add_repo(
        self,
        repo_id: str,
        *,
        files: Files | None = None,
        folder: str | Path | None = None,
        card: Mapping[str, Any] | None = None,
        lfs: Collection[str] = (),
        tags: Iterable[str] = (),
        **fields: Any,
    ) -> Repo:
        """Make a repository with one commit on `main`; `fields` are those of `Repo`.

        `card` becomes README.md's front matter, `lfs` names small files to serve through LFS all
        the same, `access` maps tokens to granted, pending, rejected, reset.
        """
        repo = Repo(repo_id, extra_tags=tuple(tags), **fields)
        self.repos[repo_id] = repo
        self.commit(repo_id, self._gather(files, folder, card), lfs=lfs, title="initial commit")
        return repo

    @staticmethod
    def _gather(files: Files | None, folder: str | Path | None, card: Any) -> Files:
        gathered: dict[str, bytes | str | Path] = {}
        if folder is not None:
            gathered |= folder_files(Path(folder))
        gathered |= files or {}
        if card is not None:
            gathered["README.md"] = f"---\n{yaml.safe_dump(dict(card))}---\n"
        return gathered

    def commit(
        self,
        repo_id: str,
        files: Files,
        *,
        ref: str = "main",
        lfs: Collection[str] = (),
        title: str = "update",
    ) -> str:
        """Commit exactly `files` to a branch or full ref (made if new); returns the commit id."""
        blobs = {name: make_blob(data, name, name in lfs or None) for name, data in files.items()}
        return self.repos[repo_id].commit(blobs, ref, title).id

    def files(self, repo_id: str) -> dict[str, bytes | str | Path]:
        """The files at the head of `main`, to commit again with changes."""
        return {path: blob.source for path, blob in self.repos[repo_id].head().files.items()}

    def tag(self, repo_id: str, name: str, commit: str) -> None:
        self.repos[repo_id].refs[f"refs/tags/{name}"] = commit

    def add_user(self, token: str, name: str) -> None:
        self.users[token] = name

    def set_access(self, repo_id: str, token: str, state: str) -> None:
        self.repos[repo_id].access[token] = state

    def rename(self, old: str, new: str) -> None:
        """Let `old` redirect to `new`. A repository at `old` moves; else `new` must be there."""
        if old in self.repos:
            repo = self.repos.pop(old)
            repo.id = new
            self.repos[new] = repo
        if new not in self.repos:
            raise KeyError(new)
        self.renamed[old.casefold()] = new

    # -- faults and the log --------------------------------------------------------------------

    def fault(self, path: str = "*", **fields: Any) -> Fault:
        """Inject a fault (see `Fault`) into the next matching request."""
        made = Fault(path=path, **fields)
        with self._lock:
            self._faults.append(made)
        return made

    def rate_limit(self, path: str = "*", retry_after: int = 1, **fields: Any) -> Fault:
        return self.fault(path, status=429, headers=rate_limited(retry_after), **fields)

    def clear_faults(self) -> None:
        with self._lock:
            for fault in self._faults:
                fault.release()
            self._faults.clear()

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The first fault that strikes this request, counted as used."""
        with self._lock:
            for fault in self._faults:
                if fault.matches(method, path):
                    fault.hits += 1
                    return fault
        return None

    @property
    def requests(self) -> list[Request]:
        with self._lock:
            return list(self._requests)

    def count(self, path: str = "*", method: str | None = None) -> int:
        """Number of logged requests whose path matches the shell pattern."""
        return sum(fnmatchcase(r.path, path) and method in (None, r.method) for r in self.requests)

    def clear_requests(self) -> None:
        with self._lock:
            self._requests.clear()

    def record(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)

    # -- what the server asks ------------------------------------------------------------------

    def locate(self, repo_id: str) -> tuple[Repo | None, bool]:
        """The repository a name leads to, and whether by a redirect (casing or renaming)."""
        if repo_id in self.repos:
            return self.repos[repo_id], False
        folded = repo_id.casefold()
        if folded in self.renamed:
            return self.repos[self.renamed[folded]], True
        for name, repo in self.repos.items():
            if name.casefold() == folded:
                return repo, True
        return None, False

    def access_state(self, repo: Repo, token: str | None) -> str:
        """`granted`, `pending`, `rejected`, `reset` or `none`; owners have what is theirs."""
        if token is None or token not in self.users:
            return "none"
        if self.users[token] == repo.id.split("/")[0]:
            return "granted"
        return repo.access.get(token, "none")

    def visible(self, repo: Repo, token: str | None) -> bool:
        return not repo.private or self.access_state(repo, token) == "granted"

    def signature(self, repo: Repo, commit: Commit, path: str) -> str:
        """What makes a CDN address work: without it, no byte of a gated file is served."""
        text = f"{repo.id}/{commit.id}/{path}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()

    def signed_blob(self, repo_id: str, commit: str, path: str, signature: str) -> Blob | None:
        """The blob a CDN address names, if the Hub signed that address."""
        repo = self.repos.get(repo_id)
        found = repo.commits.get(commit) if repo else None
        if repo is None or found is None or path not in found.files:
            return None
        if not hmac.compare_digest(signature, self.signature(repo, found, path)):
            return None
        return found.files[path]


def free_port() -> int:
    """A port nothing listens on now: an endpoint that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
