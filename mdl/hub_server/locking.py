"""A lock file in force: what it names is served at the locked commit, and nothing else."""

from pathlib import Path
from typing import Protocol

from mdl.hub_server.responses import HubRefusal
from mdl.resolver import read_lock


class Revisioned(Protocol):
    """A request about one revision of a repository."""

    @property
    def repo_type(self) -> str: ...
    @property
    def repo_id(self) -> str: ...
    @property
    def revision(self) -> str: ...


class Lock:
    """The repositories of a lock file and their commits."""

    def __init__(self, name: str, commits: dict[str, str]) -> None:
        self._name, self._commits = name, commits

    @classmethod
    def read(cls, path: Path) -> "Lock":
        """Read a lock file.

        Raises:
            NotFoundError, UsageError: it is not there, or is not one.
        """
        return cls(path.name, {e.repo_id.lower(): e.commit for e in read_lock(path)})

    def commit(self, request: Revisioned) -> str:
        """The commit that a request means.

        Raises:
            HubRefusal: it is not in the lock file.
        """
        commit = self._commits.get(request.repo_id.lower())
        if commit is None or request.repo_type != "model":
            # With a code of the Hub's, which its clients show; others they take for an outage.
            raise HubRefusal(
                404,
                f"{request.repo_id} is not in {self._name}, which is in force here.",
                "RepoNotFound",
            )
        if request.revision not in ("", "main", "HEAD", commit):
            raise HubRefusal(
                404,
                f"{request.repo_id} is locked at {commit} by {self._name}; "
                f"{request.revision} is not served.",
                "RevisionNotFound",
            )
        return commit

    def refuse_listing(self) -> None:
        """Raises HubRefusal: what is not locked is not shown either."""
        raise HubRefusal(403, f"{self._name} is in force here: only what it names is served.")
