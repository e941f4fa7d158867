"""A file's bytes over HTTP, from any byte on."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from mdl.cachemgr.fill.blob import Fetched
from mdl.hub_http import http_library, within

_OPENED = 6  # times the time-out: the time until the headers are here, redirects included


@contextlib.contextmanager
def open_file(
    url: str, headers: Mapping[str, str], start: int, stop: int | None = None, *, timeout: float
) -> Iterator[Fetched]:
    """Open a file's bytes from `start` on, up to `stop`; a redirect to another host gets no token.

    Args:
        timeout: seconds to wait for a connection, and without a byte.

    Raises:
        ConnectionError: it cannot be opened, or breaks off.
        HfHubHTTPError: the server refuses it.
    """
    from huggingface_hub.utils import get_session, hf_raise_for_status

    sent = {**headers, "accept-encoding": "identity"}
    if start or stop is not None:
        sent["range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    with contextlib.ExitStack() as stack:
        with _as_connection_error(), within(_OPENED * timeout):
            response = stack.enter_context(
                get_session().stream("GET", url, headers=sent, timeout=timeout,
                                     follow_redirects=True)
            )  # fmt: skip
        hf_raise_for_status(response)
        yield Fetched(start if response.status_code == 206 else 0, _chunks(response))


def _chunks(response: Any) -> Iterator[bytes]:
    with _as_connection_error():
        yield from response.iter_raw()  # in a size of our own they would be copied twice more


@contextlib.contextmanager
def _as_connection_error() -> Iterator[None]:
    library = http_library()
    try:
        yield
    except (library.HTTPError, library.InvalidURL) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error
