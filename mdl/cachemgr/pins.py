"""How a pin is written: `org/name`, `org/name@revision`, a type in front where it is needed."""

from collections.abc import Iterable
from typing import NamedTuple

from mdl.cachemgr.index import is_pinned
from mdl.cachemgr.layout import folder_name, repo_key, split_name
from mdl.cachemgr.types import CachedRepo


class Pinned(NamedTuple):
    """What a pin keeps: a ref, a commit or its beginning; without a `revision`, everything."""

    key: str
    revision: str
    repo_id: str


def parse_pin(text: str, repo_type: str | None = None) -> Pinned:
    """Read one.

    Raises:
        NameRefusedError: a name that can be no repository.
    """
    name, _, revision = text.partition("@")
    kind, repo_id = split_name(name, repo_type)
    folder_name(repo_id, kind or "model")
    return Pinned(repo_key(kind or "model", repo_id), revision, repo_id)


def keeps_something(pinned: Pinned, repos: Iterable[CachedRepo]) -> bool:
    """Is anything of these what a pin means? A pin may also wait for what is yet to come."""
    only = frozenset([pinned.revision])
    return any(
        not pinned.revision
        or any(is_pinned(only, revision.commit, revision.refs) for revision in repo.revisions)
        for repo in repos
        if repo_key(repo.repo_type, repo.repo_id) == pinned.key
    )


def waiting(name: str) -> str:
    """What is said of a pin that keeps nothing yet."""
    return f"{name} is not here: the pin waits for it."
