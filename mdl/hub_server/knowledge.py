"""What the Hub says of repositories to each caller, remembered as long as it may be trusted.

What is public is asked once for everyone. A gated or private repository is asked for with each
caller's own token, and kept under a keyed fingerprint of it: granted for an hour, denied for two
minutes. Without the Hub only what was known counts, for as long as the operator says.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

from mdl.errors import MdlError, OfflineError
from mdl.hub_server.config import HubConfig
from mdl.hub_server.responses import HubRefusal
from mdl.hub_server.upstream import Reply, Upstream
from mdl.resolver import fingerprint
from mdl.settings import Settings
from mdl.store import Catalog, open_catalog

V = TypeVar("V")
GRANTED, DENIED = 3600.0, 120.0  # seconds
_FRESH = 10.0  # seconds that a branch is taken to name the same commit
_PUBLIC = 600.0  # seconds that a public repository is taken to be public
_MOST = 10_000
_OPEN_TO_ALL = "everyone"


class Caller(NamedTuple):
    """Who asks: the Hub token of the request, its fingerprint, and where it comes from."""

    token: str | None
    mark: str
    address: str = ""


class Repo(NamedTuple):
    """A repository as one caller sees it.

    Attributes:
        commit: what the revision that was asked for is; `None` if the Hub was not asked.
        restricted: gated or private.
    """

    repo_type: str
    repo_id: str
    commit: str | None
    restricted: bool

    @property
    def key(self) -> str:
        """What access is remembered under, beside a fingerprint."""
        name = self.repo_id.lower()
        return name if self.repo_type == "model" else f"{self.repo_type}s/{name}"


class Expiring(Generic[V]):
    """Values for some seconds; callers that want the same one wait for the first."""

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[float, V]] = {}
        self._making: dict[Any, threading.Lock] = {}
        self._guard = threading.Lock()

    def peek(self, key: Any, seconds: float) -> V | None:
        """The value if it is not older than that, else `None`."""
        kept = self._kept.get(key)
        return kept[1] if kept is not None and time.monotonic() - kept[0] < seconds else None

    def put(self, key: Any, value: V) -> None:
        with self._guard:
            if len(self._kept) >= _MOST:
                for old in list(self._kept)[: _MOST // 10]:
                    del self._kept[old]
            self._kept[key] = time.monotonic(), value

    def forget(self, key: Any) -> None:
        with self._guard:
            self._kept.pop(key, None)

    def get(self, key: Any, seconds: float, make: Callable[[], V]) -> V:
        """The value, made once however many ask meanwhile."""
        found = self.peek(key, seconds)
        if found is not None:
            return found
        with self._guard:
            lock = self._making.setdefault(key, threading.Lock())
        try:
            with lock:
                found = self.peek(key, seconds)
                if found is None:
                    found = make()
                    self.put(key, found)
                return found
        finally:
            with self._guard:
                self._making.pop(key, None)


class Knowledge:
    """What is known of repositories and of who may read them. Blocking; safe for threads."""

    def __init__(self, settings: Settings, config: HubConfig, upstream: Upstream) -> None:
        self._settings, self._config, self._upstream = settings, config, upstream
        self._repos = Expiring[Repo]()
        self._granted = Expiring[str]()
        self._denied = Expiring[HubRefusal]()
        self._accounts = Expiring[frozenset[str]]()
        self._branches = Expiring[str]()
        self._marks = Expiring[str]()
        self._catalog: Catalog | None = None

    def caller(self, token: str | None) -> Caller:
        """Who sends this token. The key of its fingerprint is on disk, and not read every time."""
        if token is None:
            return Caller(None, "anonymous")
        own = hashlib.sha256(token.encode(errors="backslashreplace")).digest()
        mark = self._marks.get(own, _PUBLIC, lambda: fingerprint(token, self._settings.home))
        return Caller(token, mark)

    # -- repositories -----------------------------------------------------------------------

    def known(self, repo_type: str, repo_id: str, revision: str, caller: Caller) -> Repo | None:
        """What `find` gives, if it needs nothing but memory: for everyone, or for this caller."""
        name = (repo_type, repo_id.lower(), revision)
        for who in (_OPEN_TO_ALL, caller.mark):
            found = self._repos.peek((*name, who), _FRESH)
            if found is not None:
                return found
        return None

    def known_public(self, repo_type: str, repo_id: str) -> Repo | None:
        """The repository, whatever the revision, if it was public a moment ago."""
        return self._repos.peek((repo_type, repo_id.lower(), None, _OPEN_TO_ALL), _PUBLIC)

    def find(self, repo_type: str, repo_id: str, revision: str, caller: Caller) -> Repo:
        """The repository and the commit that a revision of it is: one request upstream.

        Raises:
            HubRefusal: the Hub refuses, in its own words.
            OfflineError: the Hub does not answer.
        """
        found = self.known(repo_type, repo_id, revision, caller)
        if found is not None:
            return found
        name = (repo_type, repo_id.lower(), revision)

        def ask() -> Repo:
            target = f"/api/{repo_type}s/{repo_id}/revision/{quote(revision, safe='')}"
            return self.learn(repo_type, repo_id, revision, caller, self._ask(target, caller))

        return self._repos.get((*name, caller.mark), _FRESH, ask)

    def learn(
        self, repo_type: str, repo_id: str, revision: str, caller: Caller, reply: Reply
    ) -> Repo:
        """Take up what a `revision` response says.

        Raises:
            HubRefusal: it is a refusal.
        """
        if reply.status != 200:
            raise refusal_of(reply)
        try:
            info = json.loads(reply.body)
            found = Repo(
                repo_type, str(info["id"]), info.get("sha"),
                bool(info.get("gated")) or bool(info.get("private")),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HubRefusal(502, "What answers as the Hub is not one.") from error
        who = caller.mark if found.restricted else _OPEN_TO_ALL
        for name in {repo_id.lower(), found.repo_id.lower()}:
            self._repos.put((repo_type, name, revision, who), found)
            if not found.restricted:
                self._repos.put((repo_type, name, None, who), found)
        if found.commit is not None and revision != found.commit:
            self._branches.put((found.key, found.commit), revision)
        if info.get("private") and not info.get("gated"):  # seen with this token: it may be read
            self._remember(found, caller, "granted", "")
        elif (
            not found.restricted and self._granted.peek((found.key, _OPEN_TO_ALL), _PUBLIC) is None
        ):
            self._remember(found, Caller(None, _OPEN_TO_ALL), "open", "")
        return found

    def branch(self, repo: Repo, commit: str) -> str:
        """The branch or tag by which a commit was found, else the commit."""
        return self._branches.peek((repo.key, commit), _PUBLIC) or commit

    def _ask(self, target: str, caller: Caller) -> Reply:
        if self._config.offline:
            raise OfflineError("mdl serves this Hub offline.", next="Ask for what is in its cache.")
        reply = self._upstream.ask("GET", target, caller.token)
        if reply.is_outage:
            raise OfflineError(
                f"The Hub answers {reply.status}.", why=refusal_of(reply).message,
                next="Try again later.",
            )  # fmt: skip
        return reply

    # -- access -----------------------------------------------------------------------------

    def may_read(self, repo: Repo, caller: Caller) -> bool:
        """Whether it is known that this caller was granted access within the last hour."""
        return self._granted.peek((repo.key, caller.mark), GRANTED) == "granted"

    def forget_access(self, repo: Repo, caller: Caller) -> None:
        """Have the Hub asked again: it refused a file to one who was granted access."""
        self._granted.forget((repo.key, caller.mark))

    def require_access(self, repo: Repo, caller: Caller) -> None:
        """Make sure that this caller may read a repository's files.

        Raises:
            HubRefusal: the caller may not, in the Hub's own words.
            OfflineError: it is not known, and the Hub does not answer.
        """
        if not repo.restricted or self.may_read(repo, caller):
            return
        denied = self._denied.peek((repo.key, caller.mark), DENIED)
        if denied is not None:
            raise denied
        target = f"/api/{repo.repo_type}s/{repo.repo_id}/auth-check"
        try:
            reply = self._ask(target, caller)
        except OfflineError:
            self.require_known_access(repo.repo_type, repo.repo_id, caller)
            return
        if reply.status == 200:
            self._remember(repo, caller, "granted", "")
            return
        refused = refusal_of(reply)
        if reply.status in (401, 403, 404):
            self._denied.put((repo.key, caller.mark), refused)
            self._granted.forget((repo.key, caller.mark))
            self._store(repo.key, caller.mark, "not_requested", refused.message)
        raise refused

    def require_known_access(self, repo_type: str, repo_id: str, caller: Caller) -> None:
        """Without the Hub: hold to what was known, no longer than the operator says.

        Raises:
            OfflineError: nothing that still counts is known.
        """
        key = Repo(repo_type, repo_id, None, True).key
        for mark, states in ((_OPEN_TO_ALL, ("open",)), (caller.mark, ("granted",))):
            try:
                found = self._opened().access(key, mark)
            except MdlError:
                found = None
            if found is None or found[0] not in states:
                continue
            # A public file is no secret; a restricted one is read by leave of the operator.
            if found[0] == "open" or time.time() - found[2] < self._config.offline_access:
                return
        raise OfflineError(
            f"Nobody can say now whether you may read {repo_id}.",
            why="the Hub does not answer",
            next="Try again later. The operator can let known access hold without the Hub "
            "(--offline-access 24h).",
        )

    def accounts(self, caller: Caller) -> frozenset[str]:
        """The user behind a token and its organisations, in lower case; none for a bad token.

        Raises:
            OfflineError: the Hub does not answer.
        """
        if caller.token is None:
            return frozenset()

        def ask() -> frozenset[str]:
            reply = self._ask("/api/whoami-v2", caller)
            if reply.status != 200:
                return frozenset()
            about = json.loads(reply.body)
            names = [about.get("name"), *(org.get("name") for org in about.get("orgs", ()))]
            return frozenset(str(name).lower() for name in names if name)

        return self._accounts.get(caller.mark, _PUBLIC, ask)

    def _remember(self, repo: Repo, caller: Caller, state: str, message: str) -> None:
        self._granted.put((repo.key, caller.mark), state)
        self._denied.forget((repo.key, caller.mark))
        self._store(repo.key, caller.mark, state, message)

    def _store(self, key: str, mark: str, state: str, message: str) -> None:
        try:
            self._opened().remember_access(key, mark, state, message)
        except MdlError:
            return  # a database that cannot be written keeps nobody from what the Hub granted

    def _opened(self) -> Catalog:
        if self._catalog is None:
            self._catalog = open_catalog(self._settings)
        return self._catalog


def refusal_of(reply: Reply) -> HubRefusal:
    """The Hub's refusal, with its own code and words."""
    code = reply.headers.get("x-error-code", "")
    message = reply.headers.get("x-error-message") or _said(reply.body)
    commit = reply.headers.get("x-repo-commit")
    kept = {"x-repo-commit": commit} if commit else {}
    for name in ("ratelimit", "ratelimit-policy", "retry-after"):
        if name in reply.headers:
            kept[name] = reply.headers[name]
    shown = "".join(c for c in message if c.isprintable())[:1000]
    # Over plain HTTP the client takes a bare 401 for a bad token, not for a missing repository.
    if not code and reply.status == 401 and "credentials" not in shown.lower():
        code = "RepoNotFound"
    return HubRefusal(reply.status, shown or f"The Hub answers {reply.status}.", code, kept)


def _said(body: bytes) -> str:
    try:
        return str(json.loads(body).get("error", ""))
    except (ValueError, AttributeError):
        return ""
