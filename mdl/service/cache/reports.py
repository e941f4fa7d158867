"""Reports about the cache over HTTP, besides its listing: verification and trash."""

import os
import threading
from typing import TYPE_CHECKING, Any

from mdl.cachemgr.verify import Verifier, select_folders, verification_error
from mdl.errors import ConfigError, NotFoundError, UsageError
from mdl.service.cache_schemas import Verify
from mdl.settings import parse_size

if TYPE_CHECKING:
    from mdl.cachemgr import Cache


def verify_json(cache: "Cache", wanted: Verify, closing: threading.Event) -> dict[str, Any]:
    """The object of `mdl cache verify --json`.

    Args:
        closing: set when the service stops; what was hashed until then is remembered.

    Raises:
        NotFoundError, UsageError: a name is not in the cache, or means several repositories; the
            throttle is not a size.
        BusyError: the service is stopping.
    """
    try:
        rate = None if wanted.throttle is None else parse_size(wanted.throttle)
    except ConfigError as error:
        raise UsageError(error.message, next=error.next) from error

    root = os.fspath(cache.root)
    verifier = Verifier(root, cache.index, rate=rate, again=wanted.again, stop=closing)
    report = verifier.run(select_folders(cache, wanted.names, wanted.repo_type))
    remaining = [{**bad.to_json(), "why": ""} for bad in report.bad]
    shown = {"root": root, **report.to_json(), "repaired": 0, "remaining": remaining}
    return (
        {**shown, "error": verification_error(len(report.bad)).to_json()} if report.bad else shown
    )


def details_json(cache: "Cache", repo_type: str, repo_id: str) -> dict[str, Any] | None:
    """The object of `mdl cache show --json`; `None` for what is not in the cache."""
    from mdl.cachemgr.index import describe

    try:
        repo = cache.repo(repo_id, repo_type)
    except NotFoundError:
        return None
    return describe(cache.root, repo, cache.folders_of(repo.repo_id, repo.repo_type))


def trash_json(cache: "Cache") -> dict[str, Any]:
    """The object of `mdl cache trash ls --json`."""
    from mdl.cachemgr.remove import trash_entries, unknown_in_trash

    entries = [entry.to_json() for entry in trash_entries(cache)]
    return {"entries": entries, "unknown": unknown_in_trash(cache)}
