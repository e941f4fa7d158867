"""Which of the Hub's routes a request asks for, as a pure function of its path."""

import re
from typing import NamedTuple
from urllib.parse import unquote

from mdl.hub_server.responses import HubRefusal

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space", "kernels": "kernel"}
_PREFIXES = {"datasets": "dataset", "spaces": "space", "kernels": "kernel"}
# What may follow a repository's name, and whether a revision comes after it.
ACTIONS = {
    "revision": True, "tree": True, "paths-info": True, "commits": True,
    "safetensors-metadata": True, "xet-read-token": True,
    "refs": False, "auth-check": False,
}  # fmt: skip
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_POSTS = {"paths-info"}


class FileRequest(NamedTuple):
    """`/{id}/resolve/{revision}/{path}`."""

    repo_type: str
    repo_id: str
    revision: str
    path: str


class RepoRequest(NamedTuple):
    """`/api/{type}s/{id}[/{action}[/{revision}[/{rest}]]]`; no action is `revision` of `main`."""

    repo_type: str
    repo_id: str
    action: str
    revision: str
    rest: str


class PlainRequest(NamedTuple):
    """A route without a repository: a listing, or `whoami-v2`."""

    name: str


HubRequest = FileRequest | RepoRequest | PlainRequest


def is_hub_path(path: str) -> bool:
    """Whether a path belongs to the Hub's side of the service."""
    # /[datasets/][org/]name/resolve/revision/file: `/v1/resolve` is the service's own.
    parts = path.split("/")[1:]
    return path.startswith("/api/") or "resolve" in parts[1:-2][:3] or _is_other(parts)


def _is_other(parts: list[str]) -> bool:
    """Whether it is an address of git, git-lfs or Ollama, which the Hub has too."""
    return parts[0] == "v2" or any(part.endswith(".git") for part in parts[:3])


def parse_request(method: str, raw_path: str) -> HubRequest:
    """Read a request line; `raw_path` is as sent, percent-encoded, without its query.

    Raises:
        HubRefusal: it writes, or nothing here answers to it.
    """
    parts = raw_path.strip("/").split("/")
    found: HubRequest | None = None
    if parts[0] != "api":
        found = _file(parts)
    elif parts[1:] == ["whoami-v2"]:
        found = PlainRequest("whoami-v2")
    elif len(parts) >= 2 and parts[1] in TYPES:
        found = _repo(TYPES[parts[1]], parts[2:]) if len(parts) > 2 else PlainRequest(parts[1])
    if _is_other(parts):
        raise HubRefusal(
            404, "mdl does not serve git, git-lfs or Ollama. Download with `hf download`."
        )
    if found is None:
        if method in ("GET", "HEAD"):
            raise HubRefusal(404, "mdl does not serve this address of the Hub.")
        raise _read_only()
    reads = method in ("GET", "HEAD") or (
        method == "POST" and isinstance(found, RepoRequest) and found.action in _POSTS
    )
    if not reads:
        raise _read_only()
    return found


def _file(parts: list[str]) -> FileRequest | None:
    repo_type = _PREFIXES.get(parts[0], "model")
    if repo_type != "model":
        parts = parts[1:]
    at = next((n for n in (1, 2) if parts[n : n + 1] == ["resolve"]), None)
    if at is None or len(parts) < at + 3:
        return None
    revision, path = unquote(parts[at + 1]), unquote("/".join(parts[at + 2 :]))
    return FileRequest(repo_type, _checked_id(parts[:at]), revision, path)


def _repo(repo_type: str, parts: list[str]) -> RepoRequest | None:
    at = next((n for n in (1, 2) if parts[n : n + 1] and parts[n] in ACTIONS), None)
    if at is None:
        if len(parts) > 2:
            return None
        return RepoRequest(repo_type, _checked_id(parts), "revision", "main", "")
    repo_id, action, rest = _checked_id(parts[:at]), parts[at], parts[at + 1 :]
    if not ACTIONS[action]:
        return RepoRequest(repo_type, repo_id, action, "", "") if not rest else None
    if not rest:
        return None
    return RepoRequest(repo_type, repo_id, action, unquote(rest[0]), unquote("/".join(rest[1:])))


def _checked_id(parts: list[str]) -> str:
    repo_id = unquote("/".join(parts))
    if not _ID.fullmatch(repo_id) or ".." in repo_id or len(repo_id) > 200:
        raise HubRefusal(404, "This is not the name of a repository.", "RepoNotFound")
    return repo_id


def _read_only() -> HubRefusal:
    return HubRefusal(
        405, "mdl serves the Hub for reading. Unset HF_ENDPOINT to write to the Hub itself."
    )
