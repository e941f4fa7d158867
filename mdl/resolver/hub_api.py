"""What the Hub says of repositories and of a caller's access, through huggingface_hub's `HfApi`.

The Hub answers 401 for a gated, a private and a missing repository and for a bad token alike, so
a status alone decides nothing: the class of the error and the Hub's words do.
"""

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from huggingface_hub import HfApi, ModelInfo, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)

from mdl.errors import BusyError, HubFaultError, MdlError, NoAccessError, OfflineError
from mdl.formats import (
    catalogue_format,
    claimed_format,
    config_format,
    find_tables,
    recognize,
)
from mdl.hub_http import http_library, rate_limit_reset, wait_for_rate_limit
from mdl.model_files import ADAPTER, adapter_base, is_adapter
from mdl.resolver.hub_description import describe_listing
from mdl.resolver.hub_session import bounded
from mdl.resolver.names import is_commit
from mdl.resolver.types import RepoInfo

T = TypeVar("T")
_ATTEMPTS = 3
_LONGEST_WAIT = 30.0  # seconds a command waits for a rate limit before it gives up
_BAD_TOKEN = "invalid credentials"  # the Hub's words, not a secret
_DENIALS = (
    ("awaiting a review", "pending"),
    ("has been rejected", "rejected"),
    ("not in the authorized list", "not_requested"),
    ("has been reset", "not_requested"),
)
_EXPAND: list[Any] = ["sha", "gated", "tags", "config", "disabled", "private"]  # of a listing
_TREE_LIMIT = 200
_ANY_MODEL = "openai-community/gpt2"


class HubApi:
    """A Hub endpoint as one token sees it.

    Args:
        endpoint: the Hub's address, without a trailing slash.
        token: the caller's own token, or `None` for an anonymous caller; never the one that
            huggingface_hub would find by itself.
        timeout: seconds to wait for one response.
    """

    def __init__(self, endpoint: str, token: str | None, timeout: float = 5.0) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        # No header can carry such a text, so no Hub ever issued it.
        self.bad_token = token is not None and not (token.isascii() and token.isprintable())
        self._token = token

    @property
    def has_token(self) -> bool:
        return self._token is not None

    def facts(self, repo_id: str, revision: str | None = None) -> RepoInfo:
        """State, canonical spelling, gating, format and commit of a repository: one request.

        An adapter takes another, for the base model in its configuration.

        Raises:
            BusyError: the Hub's rate limit is used up for longer than a command should wait.
            OfflineError: the Hub does not respond.
        """
        return self.listing(repo_id, revision, sizes=False)[0]

    def listing(
        self, repo_id: str, revision: str | None = None, *, sizes: bool = True
    ) -> tuple[RepoInfo, ModelInfo | None]:
        """The facts, and the Hub's whole response with the files' sizes: one request.

        Raises:
            BusyError, OfflineError: as `facts`.
        """
        try:
            info = self._ask(
                lambda api: api.model_info(repo_id, revision=revision, files_metadata=sizes)
            )
        except HFValidationError as error:
            return RepoInfo(repo_id, "missing", message=str(error), live=True), None
        except RevisionNotFoundError as error:
            here = self.branches(repo_id, tags=True)
            said = _message(error)
            return RepoInfo(repo_id, "no_revision", message=said, live=True, revisions=here), None
        except HfHubHTTPError as error:
            if "disabled" in _message(error).lower():
                return RepoInfo(repo_id, "disabled", message=_message(error), live=True), None
            if error.response.status_code in (401, 403, 404):
                why = self._why_missing(error)
                return RepoInfo(repo_id, "missing", message=why, live=True), None
            raise self._unusable(error) from error
        if not isinstance(info.id, str):
            raise self._not_a_hub("its response is not about a repository")
        if info.sha is not None and not is_commit(info.sha):
            raise self._not_a_hub(f"the commit it names cannot be one: {info.sha!r:.100}")
        facts = self._facts_of(info)
        if facts.format == "adapter" and (base := self._adapter_base(info)):
            facts = facts._replace(base_model=base)
        return facts, info

    def branches(self, repo_id: str, *, tags: bool = False) -> tuple[str, ...]:
        """Its branches, and `tags` if wanted: one request; none where they cannot be listed.

        Raises:
            BusyError, OfflineError: as `facts`.
        """
        try:
            refs = self._ask(lambda api: api.list_repo_refs(repo_id))
        except HfHubHTTPError:
            return ()
        return tuple(ref.name for ref in (*refs.branches, *(refs.tags if tags else ())))

    def first_bytes(
        self, repo_id: str, path: str, revision: str | None = None, limit: int = 4_000_000
    ) -> bytes | None:
        """The first `limit` bytes of a file: one request; `None` where it cannot be read.

        Raises:
            BusyError, OfflineError: as `facts`.
        """
        try:
            return self._ask(lambda api: _read(api, repo_id, path, revision, limit))
        except HfHubHTTPError:
            return None

    def access(self, repo_id: str) -> tuple[str, str]:
        """The caller's access to a gated repository and the Hub's own words: one request.

        Raises:
            BusyError, OfflineError: as `facts`.
        """
        if not self.has_token:
            return "no_token", "no token was given"
        if not self.bad_token:
            try:
                self._ask(lambda api: api.auth_check(repo_id), as_anonymous=False)
            except HfHubHTTPError as error:
                return access_of(error), _message(error)
            return "granted", ""
        return "bad_token", "the Hub does not accept the token"

    def whoami(self) -> str | None:
        """The name behind the token; `None` without a token, or where it is not accepted.

        Raises:
            BusyError, OfflineError: as `facts`.
        """
        token = self._sent
        if not token:
            self.facts(_ANY_MODEL)  # whatever it says, the Hub is there
            return None
        try:
            found = self._ask(lambda api: api.whoami(token=token), as_anonymous=False)
        except HfHubHTTPError:
            return None
        return str(found.get("name"))

    def file_hashes(self, repo_id: str, commit: str) -> dict[str, str]:
        """Each file's path and content: `sha256:…` for LFS files, `sha1:…` (git blob) otherwise.

        Raises:
            NoAccessError: the files cannot be listed.
            BusyError, OfflineError: as `facts`.
        """
        try:
            rows = self._ask(
                lambda api: list(api.list_repo_tree(repo_id, recursive=True, revision=commit))
            )
        except HfHubHTTPError as error:
            raise NoAccessError(
                f"The files of {repo_id} cannot be listed.",
                why=self._why_missing(error),
                next=f"`mdl access {repo_id}` says who may read it.",
            ) from error
        return {
            row.path: f"sha256:{row.lfs.sha256}" if row.lfs else f"sha1:{row.blob_id}"
            for row in rows
            if isinstance(row, RepoFile)
        }

    def by_author(self, author: str) -> Iterator[RepoInfo]:
        """Every model of an owner: many names cost few requests.

        Raises:
            BusyError, OfflineError: as `facts`.
        """
        fields = [*_EXPAND, "cardData"]
        rows = self._list(lambda api: api.list_models(author=author, expand=fields))
        return map(self._facts_of, rows)

    def quantized_of(self, repo_id: str) -> list[ModelInfo]:
        """The Hub's model tree: repositories that say they are quantized from this one.

        The most downloaded ones, in that order, with their files' names.

        Raises:
            BusyError, OfflineError: as `facts`.
        """
        return self._list(
            lambda api: api.list_models(
                filter=f"base_model:quantized:{repo_id}",
                sort="downloads",
                limit=_TREE_LIMIT,
                expand=[*_EXPAND, "siblings", "downloads", "library_name"],
            )
        )

    # -- one call ---------------------------------------------------------------------------

    @property
    def _sent(self) -> str | bool:
        return False if self._token is None or self.bad_token else self._token

    def _list(self, call: Callable[[HfApi], Iterable[ModelInfo]]) -> list[ModelInfo]:
        try:
            return self._ask(lambda api: list(call(api)))
        except HfHubHTTPError as error:
            raise self._unusable(error) from error

    def _ask(self, call: Callable[[HfApi], T], *, as_anonymous: bool = True) -> T:
        """Make a call within bounds: rate limits obeyed, passing faults tried again with jitter.

        Args:
            as_anonymous: call again without the token where the Hub does not accept it: a bad
                token must not stop public repositories.

        Raises:
            HfHubHTTPError: the Hub says no.
            BusyError, OfflineError: it is overloaded, or does not respond.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                with bounded(self.endpoint, self.timeout):
                    return call(HfApi(self.endpoint, token=self._sent))
            except HfHubHTTPError as error:
                status = error.response.status_code
                if status == 429 or status >= 500:
                    reset = rate_limit_reset(error)
                    if attempt == _ATTEMPTS or (reset or 0) > _LONGEST_WAIT:
                        raise self._unusable(error) from error
                    if reset is not None:
                        wait_for_rate_limit(reset)
                    else:
                        time.sleep(random.uniform(0.2, 0.6) * 2**attempt)
                elif self._sent and status == 401 and _BAD_TOKEN in _message(error).lower():
                    self.bad_token = True
                    if not as_anonymous:
                        raise
                else:
                    raise
            except HFValidationError:
                raise
            except (http_library().HTTPError, http_library().InvalidURL,
                    OfflineModeIsEnabled) as error:  # fmt: skip
                raise OfflineError(
                    f"The Hub at {self.endpoint} does not answer.",
                    why=str(error) or type(error).__name__,
                    next="Check the network and HF_ENDPOINT, or add --offline.",
                ) from error
            except (ValueError, KeyError, TypeError) as error:
                why = f"its response cannot be read ({type(error).__name__})"
                raise self._not_a_hub(why) from error

    def _facts_of(self, info: ModelInfo) -> RepoInfo:
        return facts_of(info, own_token=bool(self._sent))

    def _adapter_base(self, info: ModelInfo) -> str | None:
        """The repository that an adapter's configuration names, where it can be read."""
        if ADAPTER not in [file.rfilename for file in info.siblings or ()]:
            return None
        try:
            base = adapter_base(json.loads(self.first_bytes(info.id, ADAPTER, info.sha) or b""))
            validate_repo_id(base)
        except (HFValidationError, ValueError):
            return None  # a path of another machine
        return base

    def _why_missing(self, error: HfHubHTTPError) -> str:
        status = error.response.status_code
        said = _message(error) or f"the Hub answers {status}"
        if status == 401 and not self.has_token:
            said = "the Hub answers 401: it is missing, or private and no token was given"
        if self.bad_token:
            return f"{said} (asked without a token: the Hub does not accept the one given)"
        return said

    def _not_a_hub(self, why: str) -> OfflineError:
        return OfflineError(
            f"What answers at {self.endpoint} is not a Hub.",
            why=why,
            next="Check HF_ENDPOINT, and whether this network wants a sign-in first.",
        )

    def _unusable(self, error: HfHubHTTPError) -> MdlError:
        if error.response.status_code == 429:
            seconds = rate_limit_reset(error)
            when = f"in {seconds:.0f} s" if seconds else "later"
            return BusyError(
                "The Hub's rate limit is used up.",
                why=f"it answers 429; the limit is reset {when}",
                next="Wait, or set HF_TOKEN: a known caller has a higher limit.",
            )
        return HubFaultError(
            f"The Hub at {self.endpoint} answers {error.response.status_code}.",
            why=_message(error),
            next="Try again later, or add --offline to use what is here.",
        )


def _read(api: HfApi, repo_id: str, path: str, revision: str | None, limit: int) -> bytes:
    address = hf_hub_url(repo_id, path, revision=revision, endpoint=api.endpoint)
    headers = build_hf_headers(token=api.token)
    headers["Range"] = f"bytes=0-{limit - 1}"
    response = get_session().get(address, headers=headers, follow_redirects=True)
    hf_raise_for_status(response)
    data: bytes = response.content[:limit]
    return data


def facts_of(info: ModelInfo, own_token: bool) -> RepoInfo:
    """Facts from `model_info` or one row of a listing."""
    if info.disabled:
        return RepoInfo(info.id, "disabled", message="disabled on the Hub", live=True)
    base = getattr(info.card_data, "base_model", None)
    access = "unknown" if info.gated else "open"
    return RepoInfo(
        repo_id=info.id,
        state="ok",
        gated=str(info.gated) if info.gated else "false",
        format=_format_of(info),
        base_model=base if isinstance(base, str) else (base[0] if base else None),
        commit=info.sha if info.sha and is_commit(info.sha) else None,
        access="granted" if info.private and own_token else access,
        live=True,
    )


def _format_of(info: ModelInfo) -> str | None:
    """By the files (a listing of many repositories has none), the configuration, the name."""
    if is_adapter([file.rfilename for file in info.siblings or ()]):
        return "adapter"
    if info.siblings:
        found = recognize(describe_listing(info)).format
        if found is not None:
            return catalogue_format(found)
    if isinstance(info.config, dict) and info.config:
        return config_format(next((table for _, table in find_tables(info.config)), None))
    return "gguf" if "gguf" in (info.tags or ()) else claimed_format(info.id)


def access_of(error: HfHubHTTPError) -> str:
    """The access state behind a refused auth-check."""
    message = (error.server_message or "").lower()
    if _BAD_TOKEN in message:
        return "bad_token"
    if isinstance(error, GatedRepoError) or "restricted" in message:
        for words, state in _DENIALS:
            if words in message:
                return state
        return "not_requested" if error.response.status_code == 403 else "unknown"
    return "unknown"


def _message(error: HfHubHTTPError) -> str:
    """The Hub's own words; `HfApi.whoami` leaves them in the header."""
    said = error.server_message or error.response.headers.get("X-Error-Message")
    return (said or "").partition("\n")[0]
