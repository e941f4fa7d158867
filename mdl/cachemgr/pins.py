"""How a pin is written: `org/name`, `org/name@revision`, a type in front where it is needed."""

from collections.abc import Iterable
from typing import NamedTuple

from mdl.cachemgr.index import is_pinned
from mdl.cachemgr.layout import folder_name, repo_key, split_name
from mdl.cachemgr.types import CachedRepo
from mdl.errors import UsageError


class Pinned(NamedTuple):
    """What a pin keeps: a ref, a commit or its first characters; all of it without a `revision`."""

    key: str
    revision: str
    repo_id: str


def parse_pin(text: str, repo_type: str | None = None) -> Pinned:
    """Read a pin as written.

    Raises:
        NameRefusedError: it cannot be a repository's name.
        UsageError: nothing follows its `@`.
    """
    name, at, revision = text.partition("@")
    if at and not revision:
        raise UsageError(
            f"{text!r} has no revision after its `@`.",
            next=f"Write one, or {name} to pin all of it.",
        )
    kind, repo_id = split_name(name, repo_type)
    folder_name(repo_id, kind or "model")
    return Pinned(repo_key(kind or "model", repo_id), revision, repo_id)


def pin_matches(pinned: Pinned, repos: Iterable[CachedRepo]) -> bool:
    """Does a pin match anything here? It may also be set before the download."""
    only = frozenset([pinned.revision])
    return any(
        not pinned.revision
        or any(is_pinned(only, revision.commit, revision.refs) for revision in repo.revisions)
        for repo in repos
        if repo_key(repo.repo_type, repo.repo_id) == pinned.key
    )


def waiting_note(name: str) -> str:
    """The note about a pin that matches nothing yet."""
    return f"{name} is not in the cache yet; the pin will apply once it is."
