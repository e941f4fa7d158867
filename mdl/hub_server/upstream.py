"""The Hub upstream: one request at a time, bounded in time and size, the token kept on its host."""

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from mdl.cachemgr.fill import Fetched, open_file
from mdl.errors import OfflineError
from mdl.hub_http import http_library, within
from mdl.hub_server.metrics import HubMetrics
from mdl.hub_server.responses import HubRefusal

_REDIRECTS = 5
_MOST = 256 << 20  # bytes of one response that is not a file
_LONGEST = 60.0  # seconds for one response that is not a file
_FILE_TIMEOUT = 10.0  # seconds without a byte of a file, as long as huggingface_hub waits
_MARK = "x-mdl-hub"  # whose requests these are, to know them if they come back
_SENT = ("accept", "accept-encoding", "content-type", "user-agent")


class Reply(NamedTuple):
    """A response: `url` is what answered in the end, after redirects on the Hub itself."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    @property
    def is_outage(self) -> bool:
        return self.status >= 500


class Upstream:
    """A Hub's address, asked with each caller's own token. Blocking; safe for threads.

    Args:
        endpoint: the Hub's address, without a trailing slash.
        timeout: seconds to wait for a connection or for the next bytes.
        metrics: what each small request took, and failures.
    """

    def __init__(self, endpoint: str, timeout: float, metrics: HubMetrics) -> None:
        self.endpoint = endpoint
        self._metrics = metrics
        self._timeout = max(timeout, 10.0)
        self._own = {_MARK: secrets.token_hex(8)}

    def ask(
        self,
        method: str,
        target: str,
        token: str | None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:
        """Ask for something small; redirects on the Hub's own host are followed.

        Args:
            target: path and query, as sent to the Hub.
            headers: the client's; the few that matter are passed on.

        Raises:
            OfflineError: the Hub does not answer.
        """
        url = self.endpoint + target
        sent = {k: v for k, v in (headers or {}).items() if k.lower() in _SENT}
        for _ in range(_REDIRECTS):
            reply = self._once(method, url, {**sent, **_authorization(token)}, body)
            location = reply.headers.get("location")
            if not 300 <= reply.status < 400 or location is None:
                return reply
            following = urljoin(url, location)
            if not self.is_own(following):
                return reply
            url = following
        raise OfflineError(
            f"The Hub at {self.endpoint} redirects in circles.", next="Check HF_ENDPOINT."
        )

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        start = time.monotonic()
        with within(_LONGEST), self._opened(method, url, headers, body, self._timeout) as response:
            data = bytearray()
            for chunk in response.iter_raw() if method != "HEAD" else ():
                data += chunk
                if len(data) > _MOST:
                    raise OfflineError(
                        f"The Hub at {self.endpoint} answers without end.",
                        why=f"more than {_MOST} bytes",
                        next="Check HF_ENDPOINT.",
                    )
            self._metrics.upstream.observe(time.monotonic() - start)
            return Reply(response.status_code, dict(response.headers), bytes(data), url)

    @contextlib.contextmanager
    def file(
        self, url: str, token: str | None, start: int, stop: int | None = None
    ) -> Iterator[Fetched]:
        """Open a file's bytes from `start` on; the token goes to the Hub's own host alone.

        Raises:
            ConnectionError: it is refused, cannot be reached, or breaks off.
        """
        from huggingface_hub.errors import HfHubHTTPError

        headers = _authorization(token) if self.is_own(url) else {}
        try:
            with open_file(url, headers, start, stop, timeout=_FILE_TIMEOUT) as fetched:
                yield fetched
        except HfHubHTTPError as error:
            raise ConnectionError(f"the Hub answers {error.response.status_code}") from error

    @contextlib.contextmanager
    def _opened(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout: float
    ) -> Iterator[Any]:
        from huggingface_hub.utils import get_session

        library = http_library()
        try:
            with get_session().stream(
                method, url, headers={**headers, **self._own}, content=body or None,
                timeout=timeout, follow_redirects=False,
            ) as response:  # fmt: skip
                yield response
        except (library.HTTPError, library.InvalidURL) as error:
            self._metrics.upstream_failures.inc()
            raise OfflineError(
                f"The Hub at {self.endpoint} does not answer.",
                why=str(error) or type(error).__name__,
                next="Check the network and HF_ENDPOINT; what is in the cache is served.",
            ) from error

    def require_other(self, headers: Mapping[str, str]) -> None:
        """Refuse a request that was sent from here.

        Raises:
            HubRefusal: this service is its own Hub.
        """
        if headers.get(_MARK) == self._own[_MARK]:
            raise HubRefusal(
                508, f"This mdl has itself as its Hub: it was started with {self.endpoint} as "
                "HF_ENDPOINT. Start it without."
            )  # fmt: skip

    def is_own(self, url: str) -> bool:
        """Whether an address is on the Hub's own host."""
        found, own = urlsplit(url), urlsplit(self.endpoint)
        return (found.scheme, found.netloc) == (own.scheme, own.netloc)


def _authorization(token: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}
