"""The Hub through huggingface_hub: the HTTP library it uses, and its errors as ours."""

import contextlib
import errno
import re
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from mdl.errors import DiskError, LoadError, MdlError, NoAccessError, NotFoundError, OfflineError
from mdl.formatting import unsigned

# What the HTTP library appends to every status.
_ADVERTISED = "For more information check:"


def http_library() -> Any:
    """The HTTP library of huggingface_hub: httpx in 1.x, httpx2 since 2.0.

    Its `HTTPError` is raised when a connection fails or breaks; it is not an `OSError`.
    """
    from huggingface_hub.utils import get_session

    return sys.modules[type(get_session()).__module__.partition(".")[0]]


class _Limit:
    """Seconds for one response, and when the one that is read now has to end."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        self.end = time.monotonic() + self.seconds


_limit: ContextVar[_Limit | None] = ContextVar("mdl_hub_limit", default=None)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Have each response of the Hub to this thread end in time, also one whose headers drip.

    A read's own time-out begins anew with each byte. Beyond the limit a read raises the HTTP
    library's `TransportError`.
    """
    from huggingface_hub.utils import get_session

    session = get_session()
    for transport in (session._transport, *session._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if backend is not None and not isinstance(backend, _Timed):
            pool._network_backend = _Timed(backend)
    mark = _limit.set(_Limit(seconds))
    try:
        yield
    finally:
        _limit.reset(mark)


class _Timed:
    """A network backend of httpcore, or a stream of one, that reads within the limit."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(self, *args: Any, **options: Any) -> "_Timed":
        return _Timed(self._inner.connect_tcp(*args, **options))

    def start_tls(self, *args: Any, **options: Any) -> "_Timed":
        return _Timed(self._inner.start_tls(*args, **options))

    def write(self, *args: Any, **options: Any) -> None:
        if (limit := _limit.get()) is not None:
            limit.restart()  # the next request
        self._inner.write(*args, **options)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if (limit := _limit.get()) is not None:
            left = limit.end - time.monotonic()
            if left <= 0:
                said = f"the response took longer than {limit.seconds:.0f} s"
                raise http_library().TransportError(said)
            timeout = timeout or left
        data: bytes = self._inner.read(max_bytes, timeout)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def rate_limit_reset(error: Any) -> float | None:
    """Seconds until a rate limit is reset, where the Hub's refusal is of one and says it."""
    headers = error.response.headers
    found = re.fullmatch(r"\d+", headers.get("Retry-After", "")) or re.search(
        r"(?<=\bt=)\d+", headers.get("RateLimit", "")
    )
    return float(found[0]) if error.response.status_code == 429 and found else None


def wait_for_rate_limit(seconds: float) -> None:
    """Wait until a rate limit is reset, and say so."""
    import logging

    logging.getLogger("mdl").warning(
        "The Hub's rate limit is used up: waiting %.0f s until it is reset.", seconds
    )
    time.sleep(seconds)


def disk_filled_up(error: OSError) -> DiskError | None:
    """The error to raise where the system says that the disk is full."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    return DiskError(
        "The disk filled up during the download.",
        why=str(error),
        next="Free some space (`mdl cache prune --dry-run`) and run it again: it goes on from "
        "what has arrived.",
    )


@contextlib.contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn the Hub's refusals and the network's failures into errors that say what to do."""
    from huggingface_hub import errors

    http = http_library()
    try:
        yield
    except errors.GatedRepoError as error:
        raise NoAccessError(
            f"{repo_id} is gated, and your token may not read it.",
            why=_server_message(error),
            next=f"Request access on its page (…/{repo_id}), or set HF_TOKEN to another token.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(
            f"{repo_id} has no such revision.",
            why=_server_message(error),
            next="Its page lists its branches and tags.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFoundError(
            f"The repository {repo_id} does not exist, or is private.",
            why=_server_message(error),
            next="Check the name; for a private repository set HF_TOKEN.",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, http.ConnectError,
            http.TimeoutException) as error:  # fmt: skip
        if isinstance(error.__cause__, errors.HfHubHTTPError):  # the Hub did respond
            raise _http_error(repo_id, error.__cause__) from error
        raise OfflineError(
            f"{repo_id} is not completely in the cache, and the Hub cannot be reached.",
            why=_reason(str(error) or type(error).__name__),
            next="Connect, or set HF_ENDPOINT to a Hub that responds.",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _http_error(repo_id, error) from error
    except OSError as error:
        raise (disk_filled_up(error) or error) from error
    except http.HTTPError as error:
        raise MdlError(
            f"The download of {repo_id} was interrupted.",
            why=_reason(f"{type(error).__name__}: {error}"),
            next="Run it again: it goes on from what has arrived.",
        ) from error


def _http_error(repo_id: str, error: Any) -> MdlError:
    status = error.response.status_code
    if status in (401, 403):
        return NoAccessError(
            f"The Hub denies access to {repo_id}.",
            why=_server_message(error),
            next="Check HF_TOKEN: it may be wrong or expired.",
        )
    return LoadError(
        f"The Hub returned status {status} for {repo_id}.",
        why=_server_message(error),
        next="Wait a little and run it again: it goes on from what has arrived.",
    )


def _server_message(error: Any) -> str:
    message = error.response.headers.get("X-Error-Message") if error.response is not None else None
    return _reason(str(message or error))


def _reason(text: str) -> str:
    """All that was said: what matters is often not in the first line."""
    lines = filter(None, map(str.strip, text.splitlines()))
    return unsigned("\n".join(line for line in lines if not line.startswith(_ADVERTISED)))
