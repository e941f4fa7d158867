"""Bounds on a call of huggingface_hub, which has none of its own: time-outs, no hidden retries.

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

from mdl.hub_http import http_library

_lock = threading.Lock()
_call: ContextVar["_Call | None"] = ContextVar("mdl_hub_call", default=None)


class _Call:
    """The time-out of each request in seconds, and whether the last one got no response."""

    def __init__(self, timeout: float) -> None:
        self.timeouts = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        self.unanswered = False


@contextlib.contextmanager
def bounded(timeout: float) -> Iterator[None]:
    """Give each request of one `HfApi` call `timeout` seconds, and let its first failure out."""
    hooks = get_session().event_hooks
    with _lock:
        if _before not in hooks["request"]:
            hooks["request"].append(_before)
            hooks["response"].append(_after)
    mark = _call.set(_Call(timeout))
    try:
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


def _after(response: Any) -> None:
    call = _call.get()
    if call is not None:
        call.unanswered = False
        if response.status_code == 429 or response.status_code >= 500:
            hf_raise_for_status(response)
