"""What goes back to a client of the Hub: refusals it can show, and answers without Xet.

Clients download a file by Xet where a header or a listing offers it. Then its bytes would not
come through here, so these are taken out, at any depth, except for files that the client would
not fetch without (over 50 GB).
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

# huggingface_hub refuses larger files over plain HTTP.
PLAIN_LIMIT = 50_000_000_000
_GLANCE = 4 << 20  # bytes
_XET_KEYS = frozenset({"xetHash", "xetEnabled", "xet"})
# Of an upstream response, what is passed on.
PASSED = frozenset(
    {
        "content-type", "x-repo-commit", "x-error-code", "x-error-message", "link", "etag",
        "x-request-id", "ratelimit", "ratelimit-policy", "retry-after", "x-total-count",
    }
)  # fmt: skip
Headers = list[tuple[str, str]]


class HubRefusal(Exception):
    """A refusal in the form that clients of the Hub show their users.

    Args:
        status: the HTTP status.
        message: a sentence for the user.
        code: the Hub's own error code, where one fits: clients tell errors apart by it.
        headers: further headers.
    """

    def __init__(
        self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers = dict(headers or {})

    @property
    def is_passing(self) -> bool:
        """Whether the same may be granted in a moment: an outage, or a rate limit."""
        return self.status >= 500 or self.status == 429

    def response(self) -> tuple[int, Headers, bytes]:
        """Status, headers and body."""
        shown = self.message.replace("\n", " ").encode("latin-1", "replace").decode("latin-1")
        headers = {"content-type": "application/json", "x-error-message": shown, **self.headers}
        if self.code:
            headers["x-error-code"] = self.code
        return self.status, list(headers.items()), json.dumps({"error": self.message}).encode()


def without_xet(value: Any) -> Any:
    """A JSON value without its offers of Xet; entries over the plain limit keep theirs."""
    if isinstance(value, list):
        return [without_xet(each) for each in value]
    if not isinstance(value, dict):
        return value
    size = value.get("size")
    needs_xet = isinstance(size, int) and size > PLAIN_LIMIT
    return {
        key: without_xet(each)
        for key, each in value.items()
        if key not in _XET_KEYS or (needs_xet and key == "xetHash")
    }


def passed_headers(headers: Mapping[str, str], upstream: str, base: str) -> Headers:
    """An upstream response's headers for a client that knows this service as `base`.

    `Link` is rewritten: clients follow it as it is, and would leave with their token.
    """
    kept: Headers = []
    for name, value in headers.items():
        if name.lower() in PASSED:
            kept.append((name, value if name.lower() != "link" else _links(value, upstream, base)))
    return kept


def _links(value: str, upstream: str, base: str) -> str:
    """`Link` with its pages here; what lies on another host, or offers Xet, is left out."""
    kept = []
    for target, rest in re.findall(r"<([^>]*)>([^<]*)", value):
        url, own = urlsplit(target), urlsplit(upstream)
        if "xet" in rest or (url.netloc and url.netloc != own.netloc):
            continue
        query = f"?{url.query}" if url.query else ""
        kept.append(f"<{base}{url.path.removeprefix(own.path)}{query}>{rest.rstrip(', ')}")
    return ", ".join(kept)


def is_glance(header: str | None) -> bool:
    """Whether a Range header asks for a small part, as one does who reads a file's head or foot."""
    found = re.fullmatch(r"bytes=(\d*)-(\d+)", (header or "").strip())
    return found is not None and int(found[2]) - int(found[1] or 0) < _GLANCE


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """`(first, stop)` of a Range header; `None` to send everything.

    Raises:
        HubRefusal: 416, nothing of the file is in it.
    """
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").strip())
    if found is None or found.group(1) == found.group(2) == "":
        return None
    if not found[1]:
        first, stop = max(0, size - int(found[2])), size
    else:
        first = int(found[1])
        stop = min(size, int(found[2]) + 1) if found[2] else size
    if first >= stop:
        raise HubRefusal(
            416, "The file is shorter than that.", headers={"content-range": f"bytes */{size}"}
        )
    return first, stop
