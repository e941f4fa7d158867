"""What a normalization is asked to do, and the plan for it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mdl.cachemgr.layout import repo_key

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache


@dataclass(frozen=True)
class NormalizeRequest:
    """What to normalize.

    Attributes:
        to: `shared`, `hub` or `lower`.
        only: one repository's key, or all.
        across: let different repositories share equal blobs too, if the request covers one.
        store: move blobs whose Xet hash is known into huggingface_hub's shared store.
        repo_type: only repositories of this type.
    """

    to: str = "shared"
    only: str | None = None
    across: bool = False
    store: bool = False
    repo_type: str | None = None

    @classmethod
    def of(
        cls,
        cache: "Cache",
        name: str | None,
        repo_type: str | None,
        *,
        to: str | None,
        across: bool,
        store: bool,
    ) -> "NormalizeRequest":
        """The request for one repository or all; without `to`, as configured, else `shared`.

        Raises:
            NotFoundError, UsageError: `name` is not in the cache, or is ambiguous.
        """
        only = None
        if name is not None:
            repo = cache.repo(name, repo_type)
            only = repo_key(repo.repo_type, repo.repo_id)
        configured = cache.settings.cache.normalize
        to = to or ("shared" if configured == "off" else configured)
        return cls(to, only, across, store, repo_type)

    def covers(self, key: str) -> bool:
        """Is the repository with this key to be normalized?"""
        return self.only in (None, key) and self.repo_type in (None, key.partition("/")[0])


@dataclass(frozen=True)
class Group:
    """One repository's part of a plan: what is to be done, or why it is left alone."""

    repo_id: str
    repo_type: str
    spellings: tuple[str, ...]
    target: str | None
    folders: tuple[str, ...]
    operations: int
    saved: int
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "repo_id": self.repo_id,
            "repo_type": self.repo_type,
            "spellings": list(self.spellings),
            "target": self.target,
            "operations": self.operations,
            "saved": self.saved,
            "skipped": self.skipped or None,
        }


@dataclass(frozen=True)
class NormalizePlan:
    """`saved` is what is freed at once: replaced copies do not go through the trash."""

    request: NormalizeRequest
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()

    @property
    def saved(self) -> int:
        return sum(group.saved for group in self.groups)

    @property
    def work(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.operations and not group.skipped)

    def to_json(self) -> dict[str, Any]:
        return {
            "to": self.request.to,
            "across": self.request.across,
            "store": self.request.store,
            "groups": [group.to_json() for group in self.groups],
            "saved": self.saved,
            "notes": list(self.notes),
        }


class CannotNormalize(Exception):
    """A repository cannot be normalized now, for the reason in the text."""
