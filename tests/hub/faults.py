"""Injected faults and the request log of the loopback Hub."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Request:
    """One answered request. `who` is a user's name, "anonymous" or "bad token": never a token."""

    method: str
    path: str
    query: str
    who: str
    status: int
    range: str | None = None


@dataclass(eq=False)
class Fault:
    """What to do to the next `times` requests whose path matches the shell pattern `path`.

    `status` answers instead of the Hub; `latency` (seconds) waits first; `cut_at` closes the
    connection after that many bytes of the body (with a TCP reset if `reset`); `hold_at` stops
    sending after that many bytes until `release()`: `reached` is set at that moment, so a test
    can act in the middle of a download without sleeping. `wrong_at` sends another byte there;
    `claimed` is the size of an LFS file that the Hub claims in its place; `pause` waits (seconds)
    before each 256 KiB.
    """

    path: str = "*"
    method: str | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    latency: float = 0.0
    cut_at: int | None = None
    reset: bool = False
    hold_at: int | None = None
    wrong_at: int | None = None
    claimed: int | None = None
    pause: float = 0.0
    times: int | None = 1
    hits: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def matches(self, method: str, path: str) -> bool:
        if self.times is not None and self.hits >= self.times:
            return False
        if self.method is not None and self.method != method:
            return False
        # A body fault says nothing about an answer without a body.
        of_body = (self.cut_at, self.hold_at, self.wrong_at, self.pause or None)
        if method == "HEAD" and any(each is not None for each in of_body):
            return False
        return fnmatchcase(path, self.path)

    def release(self) -> None:
        self.released.set()

    def spoilt(self, chunk: bytes, at: int) -> bytes:
        """A piece of a body from byte `at` on, late or wrong."""
        if self.pause:
            self.released.wait(self.pause)
        if self.wrong_at is None or not at <= self.wrong_at < at + len(chunk):
            return chunk
        place = self.wrong_at - at
        return chunk[:place] + bytes([chunk[place] ^ 1]) + chunk[place + 1 :]

    @property
    def body_limit(self) -> int | None:
        """Bytes of the body to send before the fault strikes."""
        return self.cut_at if self.cut_at is not None else self.hold_at


def rate_limited(retry_after: int = 1) -> dict[str, str]:
    """The headers of the Hub's 429: the limit's state and when to come back (seconds)."""
    return {
        "RateLimit": f'"api";r=0;t={retry_after}',
        "RateLimit-Policy": '"fixed window";"api";q=500;w=300',
        "Retry-After": str(retry_after),
    }
