"""The Hub's side of the service, as an ASGI application.

A request for a file that is here is answered without a thread and without the Hub, as long as
what was learned a moment ago about its repository holds. Everything else is decided in a thread.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from mdl.cachemgr.fill import Fetched, SnapshotFile
from mdl.errors import MdlError, OfflineError, VerificationError
from mdl.hub_server.answers import Answers
from mdl.hub_server.config import HubConfig
from mdl.hub_server.exchange import Exchange, hung_up, read_body, response_head, send_whole
from mdl.hub_server.files import Files, Filling, RemoteFile
from mdl.hub_server.knowledge import Caller, Knowledge, Repo
from mdl.hub_server.locking import Lock
from mdl.hub_server.metrics import HubMetrics
from mdl.hub_server.requests import FileRequest, HubRequest, PlainRequest, parse_request
from mdl.hub_server.responses import Headers, HubRefusal, byte_range, is_glance
from mdl.hub_server.streaming import filling_chunks, local_chunks, straight_chunks
from mdl.hub_server.upstream import Upstream
from mdl.resolver import is_commit
from mdl.settings import Settings

T = TypeVar("T")
log = logging.getLogger("mdl.hub")
_THREADS = 64
_DECIDES = 25.0  # seconds until it is known what goes out: llama.cpp gives up after 30
_TRIES = 3  # of a file that was removed just before it was opened


class FileAnswer(NamedTuple):
    """A file and what is said of it; `source` is where its bytes come from."""

    commit: str
    etag: str
    size: int
    source: SnapshotFile | Filling | RemoteFile


class _RemovedError(Exception):
    """A file was removed just before it was opened."""


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
        self.upstream = Upstream(settings.endpoint, settings.hub_timeout, self.metrics)
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
        state = scope.setdefault("state", {})
        method = state.get("method", scope["method"])
        exchange = Exchange(receive, send, state.setdefault("logged", {}))
        try:
            self.upstream.require_other(headers)
            caller = self.knowledge.caller(_token(headers))
            caller = caller._replace(address=(scope.get("client") or ("",))[0])
            await self._admit(caller)
            request = parse_request(method, scope["raw_path"].decode("latin-1"))
            if not isinstance(request, PlainRequest):
                exchange.logged["repo"] = request.repo_id
            if isinstance(request, FileRequest):
                state["route"] = "/{repo}/resolve/{revision}/{file}"
                await self._file(request, caller, headers, method, exchange)
            else:
                state["route"] = f"/api/…/{_action(request)}"
                body = await read_body(receive) if method == "POST" else b""
                target = scope["raw_path"].decode("latin-1")
                query = scope["query_string"].decode("latin-1")
                answer = await self._in_thread(
                    lambda: self._answers.answer(
                        method, request, target, query, caller, headers, body,
                        _base(scope, headers),
                    )
                )  # fmt: skip
                await send_whole(send, answer.status, answer.headers, answer.body)
        except HubRefusal as refusal:
            await self._refuse(send, refusal)
        except OfflineError as error:
            await self._refuse(send, HubRefusal(503, _sentence(error)))
        except MdlError as error:
            await self._refuse(send, HubRefusal(404, _sentence(error)))

    async def _refuse(self, send: Send, refusal: HubRefusal) -> None:
        self.metrics.refusals.inc()
        await send_whole(send, *refusal.response())

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
        method: str, exchange: Exchange,
    ) -> None:  # fmt: skip
        if self.lock is not None:
            request = request._replace(revision=self.lock.commit(request))
        for _ in range(_TRIES):
            answer = self._at_hand(request, caller)
            if answer is None:
                begin = method != "HEAD" and not is_glance(headers.get("range"))
                answer = await self._decide(request, caller, begin=begin)
            with contextlib.suppress(_RemovedError):
                return await self._respond(request, answer, caller, headers, method, exchange)
        raise HubRefusal(503, f"{request.path} is being removed. Try again.")

    async def _decide(self, request: FileRequest, caller: Caller, *, begin: bool) -> FileAnswer:
        try:
            async with asyncio.timeout(_DECIDES):
                return await self._in_thread(lambda: self._prepare(request, caller, begin=begin))
        except TimeoutError as error:
            raise HubRefusal(504, "The Hub takes too long to answer. Try again.") from error

    async def _respond(
        self, request: FileRequest, answer: FileAnswer, caller: Caller,
        headers: Mapping[str, str], method: str, exchange: Exchange,
    ) -> None:  # fmt: skip
        """Send the file, its part, or what is said of it.

        Raises:
            _RemovedError: it was removed meanwhile; nothing was sent.
        """
        send = exchange.send
        about: Headers = [
            ("x-repo-commit", answer.commit), ("etag", f'"{answer.etag}"'),
            ("x-linked-etag", f'"{answer.etag}"'), ("x-linked-size", str(answer.size)),
            ("accept-ranges", "bytes"), ("content-type", "application/octet-stream"),
        ]  # fmt: skip
        if headers.get("if-none-match") in (f'"{answer.etag}"', answer.etag):
            return await send_whole(send, 304, about, b"")
        if isinstance(answer.source, RemoteFile):
            log.info("%s is fetched from Xet: it is over 50 GB.", request.path)
            about += [*answer.source.xet, ("location", answer.source.url)]
            return await send_whole(send, 302, about, b"")
        part = byte_range(headers.get("range"), answer.size)
        if part is not None and part[0] and self.files.is_doubted(answer.etag):
            part = None  # a 200 makes the client start anew
        first, stop = part or (0, answer.size)
        about.append(("content-length", str(stop - first)))
        if part is not None:
            about.append(("content-range", f"bytes {first}-{stop - 1}/{answer.size}"))
        if method == "HEAD":
            return await send_whole(send, 200 if part is None else 206, about, b"")
        if self.config.accel and isinstance(answer.source, SnapshotFile):
            self.metrics.hits.inc()
            exchange.logged["from"] = "nginx"
            place = self.files.place(answer.source)
            about = [each for each in about if not each[0].startswith("content-")]
            about.append(("x-accel-redirect", f"{self.config.accel.rstrip('/')}/{quote(place)}"))
            return await send_whole(send, 200, about, b"")
        chunks = self._chunks(answer.source, caller, first, stop, exchange)
        try:
            await self._stream(exchange, 200 if part is None else 206, about, chunks)
        except (MdlError, OSError) as error:
            if isinstance(error, VerificationError):
                self.files.doubt(answer.etag)
            reason = " ".join(str(error).split())
            if not exchange.logged["bytes"]:
                raise HubRefusal(502, f"{request.path} cannot be had now: {reason}") from error
            exchange.logged["broke_off"] = reason
            raise ConnectionAbortedError("a file broke off") from error

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

    def _prepare(self, request: FileRequest, caller: Caller, *, begin: bool) -> FileAnswer:
        """The answer, whatever has to be asked for it; `begin` a download that it needs.

        Raises:
            HubRefusal, OfflineError: it cannot be given.
        """
        _, repo_id, revision, path = request
        try:
            repo = self._find(request, caller)
            self.knowledge.require_access(repo, caller)
            commit = revision if is_commit(revision) else repo.commit
            if commit is None:
                raise HubRefusal(502, f"The Hub does not say what {revision} of {repo_id} is.")
            found = self.files.here(repo, commit, path)
            if found is None:
                branch = self.knowledge.branch(repo, commit)
                source = self._fetch(repo, branch, commit, path, caller, begin=begin)
                return _answer_of(source, commit)
        except OfflineError as error:
            repo, commit = self._answers.known_offline(request, caller, error)
            found = self.files.here(repo, commit, path)
            if found is None:
                raise
        self.files.record_use(repo, commit)
        return FileAnswer(commit, found.etag, found.size, found)

    def _find(self, request: FileRequest, caller: Caller) -> Repo:
        try:
            return self.knowledge.find(*request[:3], caller)
        except HubRefusal as refusal:
            # Who asks for a gated file by a bad token is told that it is gated.
            if refusal.status == 401 and caller.token is not None:
                raise self.files.refusal(request, caller) or refusal from refusal
            raise

    def _fetch(
        self, repo: Repo, branch: str, commit: str, path: str, caller: Caller, *, begin: bool
    ) -> SnapshotFile | Filling | RemoteFile:
        try:
            return self.files.fetch(repo, branch, commit, path, caller, begin=begin)
        except HubRefusal as refusal:
            if repo.restricted and refusal.status in (401, 403):
                self.knowledge.forget_access(repo, caller)
            raise

    def _chunks(
        self, source: SnapshotFile | Filling, caller: Caller, first: int, stop: int,
        exchange: Exchange,
    ) -> AsyncGenerator[bytes, None]:  # fmt: skip
        """A file's bytes, from where they are.

        Raises:
            _RemovedError: it was removed meanwhile.
        """
        if isinstance(source, SnapshotFile):
            try:
                fd = os.open(source.path, os.O_RDONLY)
            except FileNotFoundError as error:
                raise _RemovedError from error
            self.metrics.hits.inc()
            exchange.logged["from"] = "cache"
            return local_chunks(fd, first, stop)
        files, fill = self.files, source.fill

        def straight(start: int) -> AbstractContextManager[Fetched]:
            return files.straight(source.remote, source.repo, source.path, caller, start, stop)

        if fill is None:
            exchange.logged["from"] = "hub, not kept"
            return straight_chunks(straight, first, stop, self._in_thread)
        exchange.logged["from"] = "hub, joined" if source.joined else "hub"
        return filling_chunks(fill, first, stop, self._in_thread, straight)

    async def _stream(
        self, exchange: Exchange, status: int, headers: Headers,
        chunks: AsyncGenerator[bytes, None],
    ) -> None:  # fmt: skip
        """Send what comes, as long as the client is there; the head with the first bytes."""
        send, sent = exchange.send, 0
        watching = asyncio.ensure_future(hung_up(exchange.receive))
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    if watching.done():
                        return
                    if not sent:
                        await send(response_head(status, headers))
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    sent += len(chunk)
                    self.metrics.bytes_out.inc(len(chunk))
            if not sent:
                await send(response_head(status, headers))
            await send({"type": "http.response.body", "body": b""})
        finally:
            watching.cancel()
            exchange.logged["bytes"] = sent


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
