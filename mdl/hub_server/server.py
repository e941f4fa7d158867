"""The Hub's side of the service, as an ASGI application.

A request for a file that is here is answered without a thread and without the Hub, as long as
what was learned a moment ago about its repository holds. Everything else is decided in a thread.
"""

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from mdl.cachemgr.fill import SnapshotFile
from mdl.errors import MdlError, OfflineError
from mdl.hub_server.answers import Answers
from mdl.hub_server.config import HubConfig
from mdl.hub_server.files import Files, Filling, RemoteFile
from mdl.hub_server.knowledge import Caller, Knowledge
from mdl.hub_server.locking import Lock
from mdl.hub_server.metrics import HubMetrics
from mdl.hub_server.requests import FileRequest, HubRequest, PlainRequest, parse_request
from mdl.hub_server.responses import Headers, HubRefusal, byte_range
from mdl.hub_server.streaming import filling_chunks, local_chunks
from mdl.hub_server.upstream import Upstream
from mdl.resolver import is_commit
from mdl.settings import Settings

T = TypeVar("T")
log = logging.getLogger("mdl.hub")
_THREADS = 64
_LARGEST_BODY = 1 << 20


class FileAnswer(NamedTuple):
    """A file and what is said of it; `source` is where its bytes come from."""

    commit: str
    etag: str
    size: int
    source: SnapshotFile | Filling | RemoteFile


class HubServer:
    """What `mdl serve --hub` adds to the service.

    Args:
        settings: the cache, the Hub upstream, and the database.
        config: who may use it, and what is in force.
        registry: where its metrics go.

    Raises:
        NotFoundError, UsageError: the lock file cannot be used.
    """

    def __init__(self, settings: Settings, config: HubConfig, registry: CollectorRegistry) -> None:
        self.config = config
        self.metrics = HubMetrics(registry, lambda: len(self.files.downloads()))
        self.upstream = Upstream(
            settings.endpoint, settings.hub_timeout, self.metrics.upstream.observe
        )
        self.knowledge = Knowledge(settings, config, self.upstream)
        self.files = Files(settings, self.upstream, self.metrics)
        self.lock = Lock.read(config.locked) if config.locked is not None else None
        self._answers = Answers(config, self.knowledge, self.files, self.upstream, self.lock)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mdl-hub")
        self._networks = config.networks

    def close(self) -> None:
        """Stop downloads and threads."""
        self.files.close()
        self._threads.shutdown(cancel_futures=True)

    def downloads(self) -> list[dict[str, Any]]:
        """What is being downloaded now: the objects of `GET /v1/hub/downloads`."""
        return [download.to_json() for download in self.files.downloads()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        method = scope.get("state", {}).get("method", scope["method"])
        try:
            caller = self.knowledge.caller(_token(headers))
            caller = caller._replace(address=(scope.get("client") or ("",))[0])
            await self._admit(caller)
            request = parse_request(method, scope["raw_path"].decode("latin-1"))
            if isinstance(request, FileRequest):
                scope.setdefault("state", {})["route"] = "/{repo}/resolve/{revision}/{file}"
                await self._file(request, caller, headers, method, send)
            else:
                scope.setdefault("state", {})["route"] = f"/api/…/{_action(request)}"
                body = await _body(receive) if method == "POST" else b""
                target = scope["raw_path"].decode("latin-1")
                query = scope["query_string"].decode("latin-1")
                answer = await self._in_thread(
                    lambda: self._answers.answer(
                        method, request, target, query, caller, headers, body,
                        _base(scope, headers),
                    )
                )  # fmt: skip
                await _send(send, answer.status, answer.headers, answer.body)
        except HubRefusal as refusal:
            await self._refuse(send, refusal)
        except OfflineError as error:
            await self._refuse(send, HubRefusal(503, _sentence(error)))
        except MdlError as error:
            await self._refuse(send, HubRefusal(404, _sentence(error)))

    async def _refuse(self, send: Send, refusal: HubRefusal) -> None:
        self.metrics.refusals.inc()
        await _send(send, *refusal.response())

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    # -- who may use it ---------------------------------------------------------------------

    async def _admit(self, caller: Caller) -> None:
        """Let through this machine, the allowed networks and the allowed accounts.

        Raises:
            HubRefusal: the caller is none of these.
        """
        try:
            address = ipaddress.ip_address(caller.address)
        except ValueError:
            address = ipaddress.ip_address("::")  # in no sensible network
        if address.is_loopback or any(address in network for network in self._networks):
            return
        accounts = self.config.accounts
        known = frozenset[str]()
        if accounts and caller.token is not None:
            known = await self._in_thread(lambda: self.knowledge.accounts(caller))
        if accounts & known:
            return
        raise HubRefusal(
            401 if caller.token is None else 403,
            "This mdl does not serve you: "
            + ("send a Hub token (HF_TOKEN) of an allowed account." if accounts
               else "its operator allows networks with --hub-allow."),
            "GatedRepo",  # of the Hub's codes, the one whose message clients show
        )  # fmt: skip

    # -- files ------------------------------------------------------------------------------

    async def _file(
        self, request: FileRequest, caller: Caller, headers: Mapping[str, str],
        method: str, send: Send,
    ) -> None:  # fmt: skip
        if self.lock is not None:
            request = request._replace(revision=self.lock.commit(request))
        answer = self._at_hand(request, caller)
        if answer is None:
            answer = await self._in_thread(lambda: self._prepare(request, caller))
        about: Headers = [
            ("x-repo-commit", answer.commit), ("etag", f'"{answer.etag}"'),
            ("x-linked-etag", f'"{answer.etag}"'), ("x-linked-size", str(answer.size)),
            ("accept-ranges", "bytes"), ("content-type", "application/octet-stream"),
        ]  # fmt: skip
        if headers.get("if-none-match") in (f'"{answer.etag}"', answer.etag):
            return await _send(send, 304, about, b"")
        if isinstance(answer.source, RemoteFile):
            log.info("%s is fetched from Xet: it is over 50 GB.", request.path)
            about += [*answer.source.xet, ("location", answer.source.url)]
            return await _send(send, 302, about, b"")
        part = byte_range(headers.get("range"), answer.size)
        first, stop = part or (0, answer.size)
        about.append(("content-length", str(stop - first)))
        if part is not None:
            about.append(("content-range", f"bytes {first}-{stop - 1}/{answer.size}"))
        if method == "HEAD":
            return await _send(send, 200 if part is None else 206, about, b"")
        if self.config.accel and isinstance(answer.source, SnapshotFile):
            self.metrics.hits.inc()
            place = self.files.place(answer.source)
            about = [each for each in about if not each[0].startswith("content-")]
            about.append(("x-accel-redirect", f"{self.config.accel.rstrip('/')}/{quote(place)}"))
            return await _send(send, 200, about, b"")
        chunks = self._chunks(answer.source, caller, first, stop)
        return await self._stream(send, 200 if part is None else 206, about, chunks)

    def _at_hand(self, request: FileRequest, caller: Caller) -> FileAnswer | None:
        """The answer, if memory and a look at the cache give it."""
        repo_type, repo_id, revision, path = request
        repo = self.knowledge.known(repo_type, repo_id, revision, caller)
        if repo is None and is_commit(revision):
            repo = self.knowledge.known_public(repo_type, repo_id)
        if repo is None or (repo.restricted and not self.knowledge.may_read(repo, caller)):
            return None
        commit = revision if is_commit(revision) else repo.commit
        found = self.files.here(repo, commit, path) if commit is not None else None
        if found is None or commit is None:
            return None
        return FileAnswer(commit, found.etag, found.size, found)

    def _prepare(self, request: FileRequest, caller: Caller) -> FileAnswer:
        """The answer, whatever has to be asked for it.

        Raises:
            HubRefusal, OfflineError: it cannot be given.
        """
        repo_type, repo_id, revision, path = request
        try:
            repo = self.knowledge.find(repo_type, repo_id, revision, caller)
            self.knowledge.require_access(repo, caller)
            commit = revision if is_commit(revision) else repo.commit
            if commit is None:
                raise HubRefusal(502, f"The Hub does not say what {revision} of {repo_id} is.")
            found = self.files.here(repo, commit, path)
            if found is None:
                branch = self.knowledge.branch(repo, commit)
                return _answer_of(self.files.fetch(repo, branch, commit, path, caller), commit)
        except OfflineError as error:
            repo, commit = self._answers.known_offline(request, caller, error)
            found = self.files.here(repo, commit, path)
            if found is None:
                raise
        self.files.record_use(repo, commit)
        return FileAnswer(commit, found.etag, found.size, found)

    def _chunks(
        self, source: SnapshotFile | Filling, caller: Caller, first: int, stop: int
    ) -> AsyncGenerator[bytes, None]:
        if isinstance(source, SnapshotFile):
            self.metrics.hits.inc()
            return local_chunks(source.path, first, stop)
        return filling_chunks(
            source.fill, first, stop, self._in_thread,
            lambda start: self.files.straight(source.remote, caller, start, stop),
        )  # fmt: skip

    async def _stream(
        self, send: Send, status: int, headers: Headers, chunks: AsyncGenerator[bytes, None]
    ) -> None:
        await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                self.metrics.bytes_out.inc(len(chunk))
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _answer_of(source: SnapshotFile | Filling | RemoteFile, commit: str) -> FileAnswer:
    about = source.remote if isinstance(source, Filling) else source
    return FileAnswer(commit, about.etag, about.size, source)


def _action(request: HubRequest) -> str:
    return request.name if isinstance(request, PlainRequest) else getattr(request, "action", "")


def _token(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _base(scope: Scope, headers: Mapping[str, str]) -> str:
    """This service's address as the client knows it."""
    scheme = headers.get("x-forwarded-proto", scope["scheme"])
    return f"{scheme if scheme in ('http', 'https') else 'http'}://{headers.get('host', '')}"


def _sentence(error: MdlError) -> str:
    return " ".join(part for part in (error.message, error.why and f"({error.why})", error.next)
                    if part)  # fmt: skip


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _LARGEST_BODY:
            raise HubRefusal(413, "The body is too large.")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return bytes(body)


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    if not any(name.lower() == "content-length" for name, _ in headers) and status != 304:
        headers = [*headers, ("content-length", str(len(body)))]
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(k.lower().encode("latin-1"), v.encode("latin-1", "replace")) for k, v in headers]
