"""What the Hub says of repositories and of one's own access, through huggingface_hub's session.

Decisions rest on `X-Error-Code` and the message, never on the status alone: the Hub answers 401
for a gated, a private, a missing repository and a bad token alike.
"""

import random
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from mdl.errors import BusyError, NoAccessError, OfflineError
from mdl.hub_http import http_library
from mdl.resolver.formats import claimed_format, config_format, is_adapter
from mdl.resolver.types import RepoInfo

_ATTEMPTS = 3
_LONGEST_WAIT = 30.0  # seconds a rate limit may hold one command up before it gives up
_BAD_TOKEN = "invalid credentials"  # the Hub's words, not a secret
_DENIALS = (
    ("awaiting a review", "pending"),
    ("has been rejected", "rejected"),
    ("not in the authorized list", "not_requested"),
    ("has been reset", "not_requested"),
)


class HubResponse(NamedTuple):
    """One HTTP answer, reduced to what decides."""

    status: int
    code: str
    message: str
    body: Any
    next: str | None


class HubApi:
    """A Hub endpoint as one token sees it.

    Args:
        endpoint: the Hub's address, without a trailing slash.
        token: the caller's own token, or `None` for an anonymous caller; never the one that
            huggingface_hub would find by itself.
        timeout: seconds to wait for one answer.
    """

    def __init__(self, endpoint: str, token: str | None, timeout: float = 5.0) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        # No header can carry such a text, so no Hub ever gave it out.
        self.bad_token = token is not None and not (token.isascii() and token.isprintable())
        self.requests = 0
        self._token = token

    @property
    def has_token(self) -> bool:
        return self._token is not None

    def facts(self, repo_id: str, revision: str | None = None) -> RepoInfo:
        """State, canonical spelling, gating, format and commit of a repository: one request.

        Raises:
            BusyError: the Hub's rate limit is used up for longer than a command should wait.
            OfflineError: the Hub does not answer.
        """
        path = f"/api/models/{repo_id}"
        if revision is not None:
            path += f"/revision/{quote(revision, safe='')}"
        answer = self._get(path)
        if answer.status == 200:
            if not isinstance(answer.body, dict) or not isinstance(answer.body.get("id"), str):
                raise self._no_hub("its answer is no repository")
            return facts_of(answer.body, self.has_token and not self.bad_token)
        if answer.code == "RevisionNotFound":
            return RepoInfo(repo_id, "no_revision", message=answer.message, live=True)
        if "disabled" in answer.message.lower():
            return RepoInfo(repo_id, "disabled", message=answer.message, live=True)
        if answer.status in (401, 403, 404):
            return RepoInfo(repo_id, "missing", message=self._missing_message(answer), live=True)
        raise self._unusable(answer)

    def access(self, repo_id: str) -> tuple[str, str]:
        """The caller's access to a gated repository and the Hub's own words: one request."""
        if not self.has_token:
            return "no_token", "no token was given"
        if self.bad_token:
            return "bad_token", "the Hub does not accept the token"
        answer = self._get(f"/api/models/{repo_id}/auth-check", anonymous_retry=False)
        return access_of(answer), answer.message

    def whoami(self) -> str | None:
        """The name behind the token; `None` without a token, or for one that is not accepted."""
        answer = self._get("/api/whoami-v2")
        return str(answer.body.get("name")) if answer.status == 200 else None

    def file_hashes(self, repo_id: str, commit: str) -> dict[str, str]:
        """Each file's path and content: `sha256:…` for LFS files, `sha1:…` (git blob) else."""
        found: dict[str, str] = {}
        path: str | None = f"/api/models/{repo_id}/tree/{commit}?recursive=true"
        while path:
            answer = self._get(path)
            if answer.status != 200:
                raise NoAccessError(
                    f"The files of {repo_id} cannot be listed.",
                    why=self._missing_message(answer),
                    next=f"`mdl access {repo_id}` says who may read it.",
                )
            for row in answer.body:
                if row["type"] == "file":
                    lfs = row.get("lfs")
                    digest = f"sha256:{lfs['oid']}" if lfs else f"sha1:{row['oid']}"
                    found[row["path"]] = digest
            path = answer.next
        return found

    def by_author(self, author: str) -> Iterator[RepoInfo]:
        """Every model of an owner, a thousand a request: how many names cost few requests."""
        fields = ("sha", "gated", "tags", "config", "cardData", "disabled", "private")
        query = "".join(f"&expand={f}" for f in fields)
        path: str | None = f"/api/models?author={quote(author)}&limit=1000{query}"
        while path:
            answer = self._get(path)
            if answer.status != 200:
                raise self._unusable(answer)
            for row in answer.body:
                yield facts_of(row, self.has_token and not self.bad_token)
            path = answer.next

    def quantized_of(self, repo_id: str) -> Iterator[dict[str, Any]]:
        """The Hub's model tree: repositories that say they are quantized from this one."""
        fields = ("sha", "gated", "tags", "config", "cardData", "downloads", "baseModels")
        query = "".join(f"&expand={f}" for f in fields)
        tag = quote(f"base_model:quantized:{repo_id}", safe="")
        path: str | None = f"/api/models?filter={tag}&sort=downloads&limit=1000{query}"
        while path:
            answer = self._get(path)
            if answer.status != 200:
                raise self._unusable(answer)
            yield from answer.body
            path = answer.next

    # -- one request ------------------------------------------------------------------------

    def _get(self, path: str, *, anonymous_retry: bool = True) -> HubResponse:
        """GET, within bounds: rate limits obeyed, passing faults tried again with jitter."""
        for attempt in range(1, _ATTEMPTS + 1):
            answer = self._once(path)
            if answer.status == 429 or answer.status >= 500:
                wait = _retry_after(answer) or random.uniform(0.2, 0.6) * 2**attempt
                if attempt == _ATTEMPTS or wait > _LONGEST_WAIT:
                    raise self._unusable(answer)
                time.sleep(wait)
                continue
            if answer.status == 401 and _BAD_TOKEN in answer.message.lower():
                self.bad_token = True
                if anonymous_retry:
                    continue  # a bad token must not stop public repositories
            return answer
        raise self._unusable(answer)

    def _once(self, path: str) -> HubResponse:
        from huggingface_hub.utils import build_hf_headers, get_session

        token = False if self._token is None or self.bad_token else self._token
        session = get_session()
        library = http_library()
        url = path if path.startswith("http") else self.endpoint + path
        self.requests += 1
        try:
            response = session.get(url, headers=build_hf_headers(token=token), timeout=self.timeout)
        except (library.TransportError, library.InvalidURL) as error:
            raise OfflineError(
                f"The Hub at {self.endpoint} does not answer.",
                why=str(error) or type(error).__name__,
                next="Check the network and HF_ENDPOINT, or add --offline.",
            ) from error
        message = response.headers.get("X-Error-Message", "")
        body = None
        if response.status_code == 200:
            try:
                body = response.json()
            except ValueError as error:
                raise self._no_hub("its answer is no JSON") from error
        following = response.links.get("next", {}).get("url")
        if response.status_code == 429:
            message = response.headers.get("Retry-After") or _ratelimit_reset(response.headers)
        return HubResponse(
            response.status_code, response.headers.get("X-Error-Code", ""), message, body, following
        )

    def _missing_message(self, answer: HubResponse) -> str:
        said = answer.message or f"the Hub answers {answer.status}"
        if answer.status == 401 and not self.has_token:
            said = "the Hub answers 401: it is missing, or private and no token was given"
        if self.bad_token:
            return f"{said} (asked without a token: the Hub does not accept the one given)"
        return said

    def _no_hub(self, why: str) -> OfflineError:
        return OfflineError(
            f"What answers at {self.endpoint} is no Hub.",
            why=why,
            next="Check HF_ENDPOINT, and whether this network wants a sign-in first.",
        )

    def _unusable(self, answer: HubResponse) -> Exception:
        if answer.status == 429:
            return BusyError(
                "The Hub's rate limit is used up.",
                why=f"it answers 429; it opens again in {answer.message or 'some'} s",
                next="Wait, or set HF_TOKEN: a known caller has a higher limit.",
            )
        return OfflineError(
            f"The Hub at {self.endpoint} answers {answer.status}.",
            why=answer.message,
            next="Try again later, or add --offline to use what is here.",
        )


def facts_of(body: dict[str, Any], own_token: bool) -> RepoInfo:
    """Facts from one model_info object or one row of a listing."""
    repo_id = body["id"]
    gated = body.get("gated")
    if body.get("disabled"):
        return RepoInfo(repo_id, "disabled", message="disabled on the Hub", live=True)
    base = (body.get("cardData") or {}).get("base_model")
    return RepoInfo(
        repo_id=repo_id,
        state="ok",
        gated="false" if not gated else str(gated),
        format=_format_of(body),
        base_model=base if isinstance(base, str) else (base[0] if base else None),
        commit=body.get("sha"),
        access="granted" if body.get("private") and own_token else ("unknown" if gated else "open"),
        live=True,
    )


def _format_of(body: dict[str, Any]) -> str | None:
    """By the files (a listing of many repositories has none), the configuration, the name."""
    config, files = body.get("config"), body.get("siblings") or ()
    if is_adapter([str(row.get("rfilename")) for row in files if isinstance(row, dict)]):
        return "adapter"
    if isinstance(config, dict) and config:
        return config_format(config.get("quantization_config"))
    return "gguf" if "gguf" in body.get("tags", ()) else claimed_format(body["id"])


def access_of(answer: HubResponse) -> str:
    """The access state behind an auth-check's answer."""
    if answer.status == 200:
        return "granted"
    message = answer.message.lower()
    if _BAD_TOKEN in message:
        return "bad_token"
    if answer.code == "GatedRepo" or "restricted" in message:
        for words, state in _DENIALS:
            if words in message:
                return state
        return "not_requested" if answer.status == 403 else "unknown"
    return "unknown"


def _retry_after(answer: HubResponse) -> float | None:
    return float(answer.message) if answer.status == 429 and answer.message.isdigit() else None


def _ratelimit_reset(headers: Any) -> str:
    found = re.search(r"\bt=(\d+)", headers.get("RateLimit", ""))
    return found[1] if found else ""
