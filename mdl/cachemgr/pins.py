"""How a pin is written: `org/name`, `org/name@revision`, a type in front where it is needed."""

from typing import NamedTuple

from mdl.cachemgr.layout import folder_name, repo_key, split_name


class Pinned(NamedTuple):
    """What a pin keeps; an empty `revision` is all of the repository."""

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
