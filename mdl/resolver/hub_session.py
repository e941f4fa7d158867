"""Bounds on a call of huggingface_hub, which has none of its own: time, size, retries, hosts.

`HfApi.auth_check` and `whoami` take no time-out, and its listings retry by themselves, for
minutes where a rate limit says so. The hooks below act on the shared session only during a call
that is made inside `bounded`; everybody else's calls are as they were.
"""

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from huggingface_hub.utils import get_session, hf_raise_for_status

from mdl.hub_http import http_library, within

_lock = threading.Lock()
_call: ContextVar["_Call | None"] = ContextVar("mdl_hub_call", default=None)


_LARGEST = 64 << 20  # bytes of one response
_WHOLE = 6  # times the time-out of a read: the time for a whole response


class _Call:
    """The time-outs of each request, the origin its token is for, and the state of the last one."""

    def __init__(self, endpoint: str, timeout: float) -> None:
        self.origin = _origin(http_library().URL(endpoint))
        self.timeouts = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        self.unanswered = False


@contextlib.contextmanager
def bounded(endpoint: str, timeout: float) -> Iterator[None]:
    """Bound each request of one `HfApi` call, and let its first failure out.

    A response ends within six times `timeout` seconds and 64 MiB. The token goes to `endpoint`
    only, whatever address a response names as its next page.
    """
    hooks = get_session().event_hooks
    with _lock:
        if _before not in hooks["request"]:
            hooks["request"].append(_before)
            hooks["response"].append(_after)
    mark = _call.set(_Call(endpoint, timeout))
    try:
        with within(_WHOLE * timeout):
            yield
    finally:
        _call.reset(mark)


def _before(request: Any) -> None:
    call = _call.get()
    if call is not None:
        if call.unanswered:  # the client's own retry
            raise http_library().TransportError("the last request got no response")
        call.unanswered = True
        request.extensions["timeout"] = call.timeouts
        request.headers["accept-encoding"] = "identity"  # what is sent is what is counted
        if _origin(request.url) != call.origin:
            request.headers.pop("authorization", None)


def _after(response: Any) -> None:
    call = _call.get()
    if call is not None:
        call.unanswered = False
        if "content-encoding" in response.headers:
            raise http_library().DecodingError("the response is compressed, unasked")
        response.stream = _bounded_stream(response.stream)
        if response.status_code == 429 or response.status_code >= 500:
            hf_raise_for_status(response)


def _bounded_stream(stream: Any) -> Any:
    http = http_library()

    class BoundedStream(http.SyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for piece in stream:
                size += len(piece)
                if size > _LARGEST:
                    raise http.TransportError(f"a response of more than {_LARGEST} bytes")
                yield piece

        def close(self) -> None:
            stream.close()

    return BoundedStream()


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
