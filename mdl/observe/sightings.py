"""What was seen of a run, piece by piece, and what all of it together says was opened."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mdl.observe.cache_paths import SnapshotFile
from mdl.observe.processes import Process

# A process that loads so much holds it long enough for a look at /proc to see it.
_HELD_FOR_SURE = 256 << 20
Group = tuple[str, str]  # real repository folder, commit


class Sighting:
    """One real file that was opened while the run lasted.

    Attributes:
        first: seconds since 1970.
        by: the means that saw it: `inotify`, `proc`, `python`.
        process: one of the run's that opened it, where that was seen.
        elsewhere: a process of somebody else's that held it.
        members: the files of snapshots that it may have been opened as; none outside a cache.
        looked: the run's processes were looked at just after it was opened.
    """

    def __init__(self, first: float, size: int, members: Iterable[SnapshotFile] = ()) -> None:
        self.first = first
        self.size = size
        self.members = [*members]
        self.by: set[str] = set()
        self.process: Process | None = None
        self.elsewhere: Process | None = None
        self.looked = False

    @property
    def is_ours(self) -> bool:
        """Whether the run opened it. What nobody was seen to hold counts as the run's, unless a
        process that opened it would have been seen.
        """
        if self.process is not None or "python" in self.by:
            return True
        if self.elsewhere is not None:
            return False
        return not (self.looked and self.size >= _HELD_FOR_SURE)


class Claim(NamedTuple):
    """A process of the run opened a file of this snapshot by its path."""

    first: float
    process: Process
    spelling: str


class Request(NamedTuple):
    """A repository that the run asked the Hub for; `status` is the HTTP status where it is known"""

    repo_type: str
    repo_id: str
    revision: str | None
    status: int | None


class Grouped(NamedTuple):
    """The files of one snapshot that were opened.

    `same_in` are commits of the repository that have all of these files as well: which of them it
    was cannot be told, and makes no difference to what was opened.
    """

    repository: str
    commit: str
    files: dict[str, tuple[SnapshotFile, Sighting]]
    same_in: tuple[str, ...]


class Sightings:
    """Everything seen of one run."""

    def __init__(self) -> None:
        self.files: dict[str, Sighting] = {}
        self.claims: dict[Group, Claim] = {}
        self.requests: dict[tuple[str, str], Request] = {}

    def grouped(self, rank: Callable[[Group], tuple[bool, float]]) -> list[Grouped]:
        """The files of caches by the snapshot they were opened as.

        RepoSnapshots that a process named by path come first; then, until no file is left, the one
        that explains the most files.

        Args:
            rank: which of several snapshots with the same files is the likeliest, greatest first.
        """
        left = {p: s for p, s in self.files.items() if s.members and s.is_ours}
        groups: dict[Group, dict[str, tuple[SnapshotFile, Sighting]]] = {}
        of_group: dict[Group, dict[str, SnapshotFile]] = {}
        for path, sighting in left.items():
            for member in sighting.members:
                of_group.setdefault((member.repository, member.commit), {})[path] = member
        for group in sorted(self.claims, key=lambda g: self.claims[g].first):
            taken = of_group.get(group, {})
            groups[group] = {m.path: (m, self.files[p]) for p, m in taken.items()}
        for group in groups:
            for path in of_group.get(group, {}):
                left.pop(path, None)
        while left:
            best = max(
                {(m.repository, m.commit) for s in left.values() for m in s.members},
                key=lambda g: (len(of_group[g].keys() & left.keys()), rank(g)),
            )
            taken = {p: m for p, m in of_group[best].items() if p in left}
            groups[best] = {m.path: (m, left.pop(p)) for p, m in taken.items()}
        return [
            Grouped(*group, files, () if group in self.claims else _same(group, files, of_group))
            for group, files in groups.items()
        ]

    def outside(self) -> dict[str, Sighting]:
        """The files that are in no cache."""
        return {p: s for p, s in self.files.items() if not s.members and s.is_ours}

    def elsewhere(self) -> list[Sighting]:
        """What others opened meanwhile."""
        return [s for s in self.files.values() if not s.is_ours]


def _same(
    group: Group,
    files: dict[str, tuple[SnapshotFile, Sighting]],
    of_group: dict[Group, dict[str, SnapshotFile]],
) -> tuple[str, ...]:
    repository, commit = group
    required = {(path, member.hash) for path, (member, _) in files.items()}
    return tuple(
        sorted(
            other
            for (where, other), members in of_group.items()
            if where == repository
            and other != commit
            and required <= {(m.path, m.hash) for m in members.values()}
        )
    )


def first_process(sightings: Iterable[Sighting]) -> Process | None:
    """The process that opened the first of these files that any is known of."""
    known = [(s.first, s.process) for s in sightings if s.process is not None]
    return min(known)[1] if known else None
