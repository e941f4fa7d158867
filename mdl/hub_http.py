"""The Hub through huggingface_hub: the HTTP library it uses, and its errors as ours."""

import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import Any

from mdl.errors import DiskError, LoadError, MdlError, NoAccessError, NotFoundError, OfflineError


def http_library() -> Any:
    """The HTTP library of huggingface_hub: httpx in 1.x, httpx2 since 2.0.

    Its `HTTPError` is raised when a connection fails or breaks; it is not an `OSError`.
    """
    from huggingface_hub.utils import get_session

    return sys.modules[type(get_session()).__module__.partition(".")[0]]


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
            why=(str(error) or type(error).__name__).strip().splitlines()[0],
            next="Connect, or set HF_ENDPOINT to a Hub that responds.",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _http_error(repo_id, error) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskError(
                "The disk filled up during the download.",
                why=str(error),
                next="Free some space (`mdl cache prune --dry-run`) and run it again: complete "
                "files are kept.",
            ) from error
        raise
    except http.HTTPError as error:
        raise MdlError(
            f"The download of {repo_id} was interrupted.",
            why=f"{type(error).__name__}: {error}",
            next="Run it again: complete files are not downloaded again.",
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
        next="Wait a little and run it again: complete files are not downloaded again.",
    )


def _server_message(error: Any) -> str:
    message = error.response.headers.get("X-Error-Message") if error.response is not None else None
    return str(message or str(error).strip().splitlines()[0])
