"""Answers about repositories: the Hub's own, without Xet, or from the cache without the Hub."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote

from mdl.cachemgr.fill import read_ref, write_listing, write_ref
from mdl.cachemgr.scan import ListedFile, read_tree_listing
from mdl.errors import OfflineError
from mdl.hub_server.config import HubConfig
from mdl.hub_server.files import Files
from mdl.hub_server.knowledge import Caller, Expiring, Knowledge, Repo
from mdl.hub_server.locking import Lock
from mdl.hub_server.requests import FileRequest, HubRequest, PlainRequest, RepoRequest
from mdl.hub_server.responses import Headers, HubRefusal, passed_headers, without_xet
from mdl.hub_server.upstream import Reply, Upstream
from mdl.resolver import is_commit

_FOREVER = 86_400.0  # seconds: what a commit has does not change
_LARGEST_KEPT = 4 << 20  # bytes of a listing that is kept


class Answer(NamedTuple):
    """A response that is not a file."""

    status: int
    headers: Headers
    body: bytes


class Answers:
    """Answers everything but files. Blocking; safe for threads."""

    def __init__(
        self, config: HubConfig, knowledge: Knowledge, files: Files, upstream: Upstream,
        lock: Lock | None,
    ) -> None:  # fmt: skip
        self._config, self._knowledge, self._files = config, knowledge, files
        self._upstream, self._lock = upstream, lock
        self._trees = Expiring[Answer]()
        self._pages = Expiring[dict[str, dict[str, Any]]]()

    def answer(
        self, method: str, request: HubRequest, target: str, query: str, caller: Caller,
        headers: Mapping[str, str], body: bytes, base: str,
    ) -> Answer:  # fmt: skip
        """The answer to a request.

        Args:
            target: its path, as sent.
            base: this service's address, as the client knows it.

        Raises:
            HubRefusal, OfflineError: it cannot be given.
        """
        if self._lock is not None:
            if isinstance(request, PlainRequest) and request.name != "whoami-v2":
                self._lock.refuse_listing()
            if isinstance(request, RepoRequest):
                request, target = self._held_to_lock(self._lock, request, target)
                if request.action == "refs":
                    return _json(_refs(request.revision))
        assert not isinstance(request, FileRequest)
        kept = self._kept_tree(request, target, query)
        if kept is not None:
            return kept
        full = f"{target}?{query}" if query else target
        try:
            if self._config.offline:
                raise OfflineError(
                    "mdl serves this Hub offline.", next="Start it without --offline."
                )
            reply = self._upstream.ask(
                "GET" if method == "HEAD" else method, full, caller.token, headers, body
            )
        except OfflineError as error:
            return self._offline(request, caller, error)
        if reply.is_outage and isinstance(request, RepoRequest):
            with contextlib.suppress(OfflineError, HubRefusal):
                return self._offline(
                    request, caller, OfflineError("The Hub fails.", next="Try again later.")
                )
        return self._passed(request, target, query, reply, caller, base)

    def _held_to_lock(
        self, lock: Lock, request: RepoRequest, target: str
    ) -> tuple[RepoRequest, str]:
        """The request, and its address upstream, at the locked commit."""
        commit = lock.commit(request)
        if request.action in ("auth-check", "refs"):
            return request._replace(revision=commit), target
        target = f"/api/{request.repo_type}s/{request.repo_id}/{request.action}/{commit}"
        rest = f"/{quote(request.rest)}" if request.rest else ""
        return request._replace(revision=commit), target + rest

    def _passed(
        self, request: HubRequest, target: str, query: str, reply: Reply, caller: Caller, base: str
    ) -> Answer:
        """An upstream reply without Xet; what it teaches is remembered."""
        headers = passed_headers(reply.headers, self._upstream.endpoint, base)
        body = reply.body
        if not isinstance(request, RepoRequest) or request.action != "xet-read-token":
            with contextlib.suppress(ValueError):
                body = json.dumps(without_xet(json.loads(body)), separators=(",", ":")).encode()
        if reply.status == 200 and isinstance(request, RepoRequest):
            if request.action == "revision" and not _selects(query):
                self._learn(request, caller, reply)
            elif request.action == "tree":
                self._keep_tree(request, target, query, reply, headers, body)
        coded = any(name.lower() == "x-error-code" for name, _ in headers)
        # Over plain HTTP the client takes a bare 401 for a bad token.
        if reply.status == 401 and not coded and b"credentials" not in body:
            headers.append(("x-error-code", "RepoNotFound"))
        return Answer(reply.status, headers, body)

    def _learn(self, request: RepoRequest, caller: Caller, reply: Reply) -> None:
        repo = self._knowledge.learn(
            request.repo_type, request.repo_id, request.revision, caller, reply
        )
        if repo.commit is not None and not is_commit(request.revision):
            folder = self._files.folder(repo.repo_type, repo.repo_id)
            if folder.exists():
                with contextlib.suppress(OSError):
                    write_ref(folder, request.revision, repo.commit)

    # -- listings of commits ----------------------------------------------------------------

    def _kept_tree(self, request: HubRequest, target: str, query: str) -> Answer | None:
        """A listing of a public repository's commit that was passed before."""
        if not isinstance(request, RepoRequest) or request.action != "tree":
            return None
        if self._knowledge.known_public(request.repo_type, request.repo_id) is None:
            return None
        return self._trees.peek((target.lower(), query), _FOREVER)

    def _keep_tree(
        self, request: RepoRequest, target: str, query: str, reply: Reply,
        headers: Headers, body: bytes,
    ) -> None:  # fmt: skip
        """Keep a listing of a commit: in memory as it was passed, on disk as the client does."""
        public = self._knowledge.known_public(request.repo_type, request.repo_id)
        if not is_commit(request.revision) or public is None:
            return
        if len(body) <= _LARGEST_KEPT:
            self._trees.put((target.lower(), query), Answer(200, headers, body))
        if request.rest or "recursive=true" not in query.lower():
            return
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
            before = self._pages.peek((target.lower(), query), _FOREVER) or {}
            rows = {**before, **_listing(json.loads(reply.body))}
            following = next((v for k, v in headers if k.lower() == "link" and v), "")
            if following:
                page = following.partition("?")[2].partition(">")[0]
                self._pages.put((target.lower(), page), rows)
                return
            if parse_qs(query).get("cursor") and not before:
                return  # the first pages were not seen
            folder = self._files.folder(public.repo_type, public.repo_id)
            write_listing(folder, request.revision, rows)

    # -- without the Hub --------------------------------------------------------------------

    def known_offline(
        self, request: FileRequest | RepoRequest, caller: Caller, error: OfflineError
    ) -> tuple[Repo, str]:
        """A repository that is here, and the commit that is meant, for one who may read it.

        Raises:
            OfflineError: it is not here, or it is not known that the caller may read it.
        """
        folder = self._files.folder(request.repo_type, request.repo_id)
        if not folder.exists():
            raise error
        repo_id = folder.name.split("--", 1)[1].replace("--", "/")
        self._knowledge.require_known_access(request.repo_type, repo_id, caller)
        revision = request.revision or "main"
        commit = revision if is_commit(revision) else read_ref(folder, revision)
        if commit is None:
            raise error
        return Repo(request.repo_type, repo_id, commit, restricted=False), commit

    def _offline(self, request: HubRequest, caller: Caller, error: OfflineError) -> Answer:
        """What the cache knows.

        Raises:
            OfflineError: it does not know that.
        """
        if not isinstance(request, RepoRequest):
            raise error
        repo, commit = self.known_offline(request, caller, error)
        folder = self._files.folder(repo.repo_type, repo.repo_id)
        files = _files_of(folder, commit)
        if request.action == "auth-check":
            return Answer(200, [("content-type", "text/plain")], b"OK")
        if request.action == "refs":
            return _json(_refs(commit))
        if request.action == "revision":
            names = files if files is not None else _names_here(folder / "snapshots" / commit)
            siblings = [{"rfilename": path} for path in sorted(names)]
            about = {"id": repo.repo_id, "modelId": repo.repo_id, "sha": commit, "tags": [],
                     "private": False, "gated": False, "siblings": siblings}  # fmt: skip
            return _json(about)
        if request.action == "tree" and not request.rest and files is not None:
            return _json([_row(path, file) for path, file in sorted(files.items())])
        raise error


def _listing(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of the tree as `trees/<commit>.json` has them."""
    files: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["type"] != "file":
            continue
        files[row["path"]] = {"size": row["size"], "blob_id": row["oid"]}
        if row.get("lfs"):
            lfs = row["lfs"]
            files[row["path"]] |= {"lfs_sha256": lfs["oid"], "lfs_size": lfs["size"]}
    return files


def _files_of(folder: Path, commit: str) -> dict[str, ListedFile] | None:
    """The files of a commit, as its listing has them."""
    return read_tree_listing(os.fspath(folder.parent), folder.name, commit)


def _names_here(snapshot: Path) -> list[str]:
    """The files of a commit that are here, where its listing is not."""
    found = (path for path in snapshot.rglob("*") if path.is_file())
    return [path.relative_to(snapshot).as_posix() for path in found]


def _row(path: str, file: ListedFile) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.hash}
    if len(file.hash) == 64:
        row["lfs"] = {"oid": file.hash, "size": file.size, "pointerSize": 0}
    return row


def _refs(commit: str) -> dict[str, Any]:
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": commit}
    return {"branches": [main], "tags": [], "converts": []}


def _json(value: Any) -> Answer:
    return Answer(200, [("content-type", "application/json")], json.dumps(value).encode())


def _selects(query: str) -> bool:
    """Whether only some fields were asked for: then what is missing means nothing."""
    return "expand" in query or "select" in query
