"""What the cache holds, as immutable values with one JSON form each.

Sizes are bytes of content (`st_size`), each inode counted once, as huggingface_hub counts them.
Times are seconds since the epoch. Named tuples, because a listing creates thousands of them.
"""

from pathlib import Path
from typing import Any, NamedTuple


class CachedRevision(NamedTuple):
    """One commit of a repository, all spellings together."""

    commit: str
    refs: tuple[str, ...]
    size: int
    files: int
    state: str
    last_modified: float
    spelling: str
    last_used: float | None = None
    pinned: bool = False
    formats: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "commit": self.commit,
            "refs": list(self.refs),
            "size": self.size,
            "files": self.files,
            "state": self.state,
            "last_modified": self.last_modified,
            "last_used": self.last_used,
            "pinned": self.pinned,
            "formats": list(self.formats),
            "spelling": self.spelling,
        }


class CachedRepo(NamedTuple):
    """One repository, all its casings on disk together.

    Attributes:
        size_on_disk: what it occupies, counting every inode and shared payload once.
        logical_size: what it would occupy if every file of every revision were a copy.
        reclaimable: what removing it would free: less than `size_on_disk` where other
            repositories, or links outside the cache, share its bytes.
        last_used_source: `journal` (mdl's own record), `atime` (a hint only) or `None`.
    """

    repo_id: str
    repo_type: str
    spellings: tuple[str, ...]
    aliases: tuple[str, ...]
    size_on_disk: int
    logical_size: int
    reclaimable: int
    last_used: float | None
    last_used_source: str | None
    last_modified: float | None
    pinned: bool
    revisions: tuple[CachedRevision, ...]
    incomplete_files: int
    incomplete_size: int
    problems: tuple[str, ...]

    @property
    def refs(self) -> tuple[str, ...]:
        return tuple(sorted({ref for revision in self.revisions for ref in revision.refs}))

    @property
    def formats(self) -> tuple[str, ...]:
        """What its weights are, those of the newest revision first."""
        return tuple(dict.fromkeys(name for each in self.revisions for name in each.formats))

    @property
    def state(self) -> str:
        """The worst of the revisions' states; `broken` too when the repository has a problem."""
        states = {revision.state for revision in self.revisions}
        if "broken" in states or self.problems:
            return "broken"
        return "partial" if "partial" in states or not states else "complete"

    def to_json(self) -> dict[str, Any]:
        return {
            "repo_id": self.repo_id,
            "repo_type": self.repo_type,
            "spellings": list(self.spellings),
            "aliases": list(self.aliases),
            "size_on_disk": self.size_on_disk,
            "logical_size": self.logical_size,
            "reclaimable": self.reclaimable,
            "last_used": self.last_used,
            "last_used_source": self.last_used_source,
            "last_modified": self.last_modified,
            "pinned": self.pinned,
            "state": self.state,
            "formats": list(self.formats),
            "revisions": [revision.to_json() for revision in self.revisions],
            "incomplete": {"files": self.incomplete_files, "size": self.incomplete_size},
            "problems": list(self.problems),
        }


class Totals(NamedTuple):
    """Totals of a root, sizes in bytes; `size_on_disk` counts every inode and payload once.

    `strangers` are entries of the root that do not belong to a cache.
    """

    repos: int
    revisions: int
    size_on_disk: int
    logical_size: int
    reclaimable: int
    incomplete_files: int
    incomplete_size: int
    no_exist_files: int
    shared_store_size: int
    xet_size: int
    trash_size: int
    problems: int
    strangers: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "strangers": list(self.strangers)}


class Placement(NamedTuple):
    """Where one repository is on this machine, if it is.

    Attributes:
        missing: the files that the model needs and the snapshot lacks, as far as its
            configuration, its index and the tree listing tell.
        commits: where the revision is absent, the commits of the repository that are here.
        revisions: there, its refs to them, and then the commits.
    """

    repo_id: str
    repo_type: str
    spelling: str | None
    commit: str | None
    state: str
    path: Path | None
    bytes: int
    missing: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    revisions: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.state == "complete"

    def to_json(self) -> dict[str, Any]:
        return {
            "repo_id": self.repo_id,
            "repo_type": self.repo_type,
            "spelling": self.spelling,
            "commit": self.commit,
            "state": self.state,
            "complete": self.complete,
            "path": str(self.path) if self.path else None,
            "bytes": self.bytes,
            "missing": list(self.missing),
            "commits": list(self.commits),
        }
