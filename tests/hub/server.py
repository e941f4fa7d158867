"""The HTTP side of the loopback Hub: routes, refusals, redirects, ranges, faults.

The answers follow what huggingface_hub 2.4 expects of the real Hub: errors are told apart by
`X-Error-Code` and `X-Error-Message`, small files come through a redirect to the resolve cache,
LFS files through a signed address on another origin (the CDN), where the token must not go.
"""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.hub.faults import Fault, Request
from tests.hub.repos import Blob, Commit, Repo, file_row, folder_row, model_fields, tree_rows
from tests.hub.sockets import HubServer
from tests.hub.writing import write

CHUNK = 1 << 18
PARTIAL = 206
ACTIONS = ("revision", "tree", "refs", "auth-check", "paths-info", "commits")
BAD_TOKEN = "Invalid credentials in Authorization header"
GATED_MESSAGES = {
    "anonymous": "Access to model {id} is restricted. You must have access to it and be "
    "authenticated to access it. Please log in.",
    "none": "Access to model {id} is restricted and you are not in the authorized list. "
    "Visit {url} to ask for access.",
    "pending": "Your request to access model {id} is awaiting a review from the repo authors.",
    "rejected": "Your request to access model {id} has been rejected by the repo's authors.",
    "reset": "Your access to model {id} has been reset. Visit {url} to ask for access again.",
}
# What a model listing shows unless `expand` asks otherwise.
LISTED = ("_id", "id", "modelId", "private", "downloads", "likes", "tags", "pipeline_tag",
          "library_name", "createdAt")  # fmt: skip
FULL = (*LISTED, "author", "sha", "lastModified", "gated", "disabled", "siblings")
SHOWN = (*FULL, "config", "cardData", "safetensors", "usedStorage", "spaces")


_WRITES = re.compile(r"^/api/(repos/create|validate-yaml)$|/(preupload|commit)/main$")


class HubError(Exception):
    """An answer that is an error; `code` goes into X-Error-Code."""

    def __init__(self, status: int, code: str | None, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: the hub keeps a structured log."""

    # -- one request ---------------------------------------------------------------------------

    def do_GET(self) -> None:
        self.hub = self.server.hub
        url = urlsplit(self.path)
        self.route, self.query_text, self.query = url.path, url.query, parse_qs(url.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        self.form = parse_qs(self.body.decode()) if length else {}
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        self.token = token if scheme == "Bearer" and token else None
        self.strike = self.hub.take_fault(self.command, self.route)
        try:
            self._strike_before(self.strike)
            self._dispatch()
        except HubError as error:
            self._refuse(error)

    do_HEAD = do_POST = do_GET

    def _write(self) -> None:
        if self.who in ("anonymous", "bad token"):
            raise HubError(401, None, "Invalid username or password.")
        status, answer = write(self.hub, self.who, self.route, self.body)
        self._json(answer, status)

    def _strike_before(self, fault: Fault | None) -> None:
        if fault is None:
            return
        if fault.latency:
            fault.released.wait(fault.latency)
        if fault.status is not None:
            message = "Too many requests" if fault.status == 429 else "injected fault"
            message = fault.headers.get("X-Error-Message", message)
            raise HubError(fault.status, None, message, **fault.headers)

    def _dispatch(self) -> None:
        if self.route.startswith("/cdn/"):
            return self._cdn()
        if self.command == "POST" and _WRITES.search(self.route):
            return self._write()
        if self.route == "/api/whoami-v2":
            return self._whoami()
        if self.route == "/api/models":
            return self._list_models()
        if self.route.startswith("/api/resolve-cache/models/"):
            *owner_name, commit, path = self._cache_parts()
            return self._small_file("/".join(owner_name), commit, path)
        if self.route.startswith("/api/models/"):
            return self._model_api()
        parts = self.route.strip("/").split("/")
        if "resolve" in parts[1:3]:
            return self._resolve(parts)
        raise HubError(404, None, "Sorry, we can't find the page you are looking for.")

    @property
    def who(self) -> str:
        if self.token is None:
            return "anonymous"
        return self.hub.users.get(self.token, "bad token")

    # -- who may see what ----------------------------------------------------------------------

    def _find(self, repo_id: str, *, for_file: bool = False) -> Repo:
        """The repository, or the refusal or redirect the Hub would answer with."""
        repo, redirected = self.hub.locate(repo_id)
        gated_file = for_file and repo is not None and repo.gated and not repo.private
        if self.who == "bad token" and not gated_file:
            raise HubError(401, None, BAD_TOKEN)
        if repo is None or not self.hub.visible(repo, self.token):
            if self.token is None:
                raise HubError(401, "RepoNotFound", "Invalid username or password.")
            raise HubError(404, "RepoNotFound", "Repository not found")
        if redirected:
            # The real Hub redirects by path only, which keeps the token on the same origin.
            path = self.route.replace(f"/{quote(repo_id)}", f"/{quote(repo.id)}", 1)
            location = f"{path}?{self.query_text}" if self.query_text else path
            raise HubError(307, None, f"Moved to {repo.id}", Location=location)
        if repo.disabled:
            raise HubError(403, None, "Access to this resource is disabled.")
        return repo

    def _require_access(self, repo: Repo) -> None:
        if not repo.gated:
            return
        state = "anonymous" if self.token not in self.hub.users else None
        state = state or self.hub.access_state(repo, self.token)
        if state == "granted":
            return
        message = GATED_MESSAGES[state].format(id=repo.id, url=f"{self.hub.address}/{repo.id}")
        raise HubError(401 if state == "anonymous" else 403, "GatedRepo", message)

    @staticmethod
    def _revision(repo: Repo, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # -- the API -------------------------------------------------------------------------------

    def _whoami(self) -> None:
        if self.token not in self.hub.users:
            message = BAD_TOKEN if self.token else "Invalid username or password."
            raise HubError(401, None, message)
        name = self.hub.users[self.token]
        token = {"displayName": "loopback", "role": "read", "type": "access_token"}
        account = {"type": "user", "id": name, "name": name, "fullname": name, "orgs": []}
        self._json({**account, "auth": {"type": "access_token", "accessToken": token}})

    def _model_api(self) -> None:
        parts = self.route.removeprefix("/api/models/").strip("/").split("/")
        cut = next((i for i in (1, 2) if parts[i : i + 1] and parts[i] in ACTIONS), len(parts))
        repo = self._find(unquote("/".join(parts[:cut])))
        action, rest = (parts[cut], parts[cut + 1 :]) if cut < len(parts) else ("revision", [])
        if action == "refs":
            return self._refs(repo)
        if action == "auth-check":
            self._require_access(repo)
            self._head(200, 2, **{"Content-Type": "text/plain"})
            self.wfile.write(b"OK")  # as the real Hub does: the status alone counts
            return None
        commit = self._revision(repo, unquote(rest[0]) if rest else "main")
        if action == "revision":
            return self._model_info(repo, commit)
        if action == "tree":
            return self._tree(commit, unquote("/".join(rest[1:])))
        if action == "commits":
            return self._commits(repo, commit)
        return self._paths_info(commit)

    def _wanted(self, default: tuple[str, ...]) -> tuple[str, ...]:
        expand = self.query.get("expand", []) + self.query.get("expand[]", [])
        return ("_id", "id", *expand) if expand else default

    def _model_info(self, repo: Repo, commit: Commit) -> None:
        fields = model_fields(repo, commit, blobs="blobs" in self.query)
        self._json({key: fields[key] for key in self._wanted(SHOWN) if fields.get(key) is not None})

    def _list_models(self) -> None:
        if self.who == "bad token":
            raise HubError(401, None, BAD_TOKEN)
        rows = [
            model_fields(repo, repo.head())
            for repo in self.hub.repos.values()
            if self.hub.visible(repo, self.token) and not repo.disabled
        ]
        rows = [row for row in rows if self._selected(row)]
        sort = self.query.get("sort", ["trendingScore"])[0]
        rows.sort(key=lambda row: (row.get(sort) or 0, row["id"]), reverse=True)
        wanted = self._wanted(FULL if "full" in self.query else LISTED)
        shown = [{key: row[key] for key in wanted if row.get(key) is not None} for row in rows]
        self._page(shown, int(self.query.get("limit", [self.hub.page_size])[0]))

    def _selected(self, row: dict[str, Any]) -> bool:
        if not set(self.query.get("filter", [])) <= set(row["tags"]):
            return False
        if "author" in self.query and row["author"] != self.query["author"][0]:
            return False
        if "gated" in self.query:
            return bool(row["gated"]) == (self.query["gated"][0].lower() == "true")
        search = self.query.get("search", [""])[0].casefold()
        return search in row["id"].casefold()

    def _tree(self, commit: Commit, under: str) -> None:
        flags = {name: self.query.get(name, [""])[0].lower() == "true" for name in
                 ("recursive", "expand")}  # fmt: skip
        rows = tree_rows(commit, under, **flags)
        if under and not rows:
            raise HubError(404, "EntryNotFound", f"{under} does not exist on the repository")
        self._page(rows, self.hub.page_size)

    def _paths_info(self, commit: Commit) -> None:
        folders = {row["path"] for row in tree_rows(commit, recursive=True)} - set(commit.files)
        expand = self.form.get("expand", [""])[0].lower() == "true"
        asked = self.form.get("paths", [])
        rows = [file_row(path, commit, expand) for path in asked if path in commit.files]
        self._json(rows + [folder_row(path, commit) for path in asked if path in folders])

    def _refs(self, repo: Repo) -> None:
        def listed(prefix: str) -> list[dict[str, str]]:
            return [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit}
                for ref, commit in sorted(repo.refs.items())
                if ref.startswith(prefix)
            ]

        kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/"}
        if "include_prs" in self.query:
            kinds["pullRequests"] = "refs/pr/"
        self._json({kind: listed(prefix) for kind, prefix in kinds.items()})

    def _commits(self, repo: Repo, commit: Commit) -> None:
        rows: list[dict[str, Any]] = []
        walk: Commit | None = commit
        while walk is not None:
            about = {"title": walk.title, "message": "", "date": walk.date}
            rows.append({"id": walk.id, "authors": [], **about})
            walk = repo.commits[walk.parent] if walk.parent else None
        self._page(rows, self.hub.page_size)

    # -- files ---------------------------------------------------------------------------------

    def _resolve(self, parts: list[str]) -> None:
        at = parts.index("resolve", 1)
        repo = self._find(unquote("/".join(parts[:at])), for_file=True)
        self._require_access(repo)
        commit = self._revision(repo, unquote(parts[at + 1]))
        path = unquote("/".join(parts[at + 2 :]))
        about = {"X-Repo-Commit": commit.id}
        if path not in commit.files:
            raise HubError(404, "EntryNotFound", "Entry not found", **about)
        blob = commit.files[path]
        if not blob.lfs:
            location = f"/api/resolve-cache/models/{quote(repo.id)}/{commit.id}/{quote(path, '')}"
            return self._head(307, 0, Location=location, ETag=f'"{blob.etag}"', **about)
        address = {"repo": repo.id, "commit": commit.id, "path": path}
        signed = urlencode({**address, "signature": self.hub.signature(repo, commit, path)})
        claimed = self.strike.claimed if self.strike else None
        about |= {"X-Linked-Size": str(claimed or blob.size), "X-Linked-ETag": f'"{blob.sha256}"'}
        about["Location"] = f"{self.hub.cdn}/cdn/{blob.sha256}?{signed}"
        return self._head(302, 0, **about)

    def _cache_parts(self) -> list[str]:
        parts = self.route.removeprefix("/api/resolve-cache/models/").split("/")
        return [unquote(part) for part in parts]

    def _small_file(self, repo_id: str, commit_id: str, path: str) -> None:
        repo = self._find(repo_id, for_file=True)
        self._require_access(repo)
        commit = self._revision(repo, commit_id)
        if path not in commit.files:
            raise HubError(404, "EntryNotFound", "Entry not found")
        self._file(commit.files[path], **{"X-Repo-Commit": commit.id})

    def _cdn(self) -> None:
        named = {key: values[0] for key, values in self.query.items()}
        if not {"repo", "commit", "path", "signature"} <= named.keys():
            raise HubError(403, None, "MissingKey")
        blob = self.hub.signed_blob(*(named[k] for k in ("repo", "commit", "path", "signature")))
        if blob is None:
            raise HubError(403, None, "AccessDenied")
        self._file(blob)

    def _file(self, blob: Blob, **headers: str) -> None:
        """Send a file or the part of it that Range asks for; a fault may stop in the middle."""
        first, last = 0, blob.size - 1
        headers |= {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = byte_range(asked[1], asked[2], blob.size)
            if first > last:
                size = {"Content-Range": f"bytes */{blob.size}"}
                raise HubError(416, None, "The requested range is not satisfiable", **size)
            headers["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
        self._head(PARTIAL if asked else 200, last - first + 1, **headers)
        if self.command == "HEAD":
            return
        with blob.open() as stream:
            stream.seek(first)
            self._send(stream, last - first + 1)

    def _send(self, stream: Any, left: int) -> None:
        limit = self.strike.body_limit if self.strike else None
        if limit is not None and limit < left:
            self._copy(stream, limit)
            left -= limit
            if not self._struck_in_the_middle():
                return
        self._copy(stream, left)

    def _copy(self, stream: Any, count: int) -> None:
        while count and (chunk := stream.read(min(CHUNK, count))):
            if self.strike:
                chunk = self.strike.spoilt(chunk, stream.tell() - len(chunk))
            self.wfile.write(chunk)
            self.hub.sent += len(chunk)
            count -= len(chunk)

    def _struck_in_the_middle(self) -> bool:
        """Hold or cut here; False where the connection is gone."""
        assert self.strike is not None
        self.strike.reached.set()
        if self.strike.hold_at is not None:
            self.strike.released.wait()
            return True
        if self.strike.reset:
            self.server.resets.add(self.connection)
        self.close_connection = True
        return False

    # -- sending -------------------------------------------------------------------------------

    def _head(self, status: int, length: int, **headers: str) -> None:
        asked = self.headers.get("Range")
        line = Request(self.command, unquote(self.route), self.query_text, self.who, status, asked)
        self.hub.record(line)
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        kind = {"Content-Type": "application/json; charset=utf-8"}
        self._head(status, len(body), **kind, **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _page(self, rows: list[dict[str, Any]], size: int) -> None:
        """One page of rows, and the address of the next in a Link header."""
        start = int(self.query.get("cursor", ["0"])[0])
        headers = {}
        if start + size < len(rows):
            query = urlencode({**self.query, "cursor": [str(start + size)]}, doseq=True)
            headers["Link"] = f'<{self.hub.address}{self.route}?{query}>; rel="next"'
        self._json(rows[start : start + size], **headers)

    def _refuse(self, error: HubError) -> None:
        headers = dict(error.headers)
        if error.status >= 400:
            headers["X-Error-Message"] = error.message
        if error.code:
            headers["X-Error-Code"] = error.code
        self._json({"error": error.message}, error.status, **headers)


def byte_range(first: str, last: str, size: int) -> tuple[int, int]:
    """First and last byte of `bytes=first-last` over `size` bytes; empty if not satisfiable."""
    if not first:  # the last N bytes
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1
