"""One `Cache` per root, cheap to open.

Reading imports neither huggingface_hub nor SQLAlchemy; what only changes need is imported when
something is changed.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl.cachemgr.index import (
    LocalRecords,
    Survey,
    did_you_mean,
    group,
    physical,
    survey,
    tree_size,
)
from mdl.cachemgr.keep_file import Sections, read_keep, update_keep
from mdl.cachemgr.layout import (
    COMMIT_LENGTH,
    is_hash,
    parse_folder,
    repo_key,
    root_id,
    spelling_rank,
    split_name,
)
from mdl.cachemgr.scan import store_is_marked
from mdl.cachemgr.types import CachedRepo, Placement, Totals
from mdl.errors import NotFoundError, UsageError
from mdl.formatting import human_ago
from mdl.settings import Settings, load_settings
from mdl.store import CacheIndex

if TYPE_CHECKING:
    from mdl.cachemgr.scan import Folder

# Named here because `Cache.list` hides the builtin inside the class.
Repos = list[CachedRepo]
Folders = list["Folder"]
Names = list[str]
Pins = list[dict[str, Any]]


def open_cache(settings: Settings, root: Path | None = None) -> "Cache":
    """The cache manager of `settings.cache_root`, or of another root."""
    return Cache(settings, Path(root or settings.cache_root))


class Cache:
    """One cache root and what this machine has recorded about it.

    Args:
        settings: where mdl keeps its index and journal; the environment's by default.
        root: the Hugging Face cache; the settings' by default.
    """

    def __init__(self, settings: Settings | None = None, root: Path | None = None) -> None:
        self.settings = settings or load_settings()
        self.root = Path(root or self.settings.cache_root)
        self._where = os.fspath(self.root)
        # What recovery reverted or finished, in sentences for the user.
        self.notes: list[str] = []

    @cached_property
    def index(self) -> CacheIndex:
        index = CacheIndex(self._file("db"))
        if index.set_aside:
            self.notes.append(
                f"The cache index was damaged and has been moved to {index.set_aside}."
                " It held the pins, recorded use, registered lock files and the undo journal."
            )
        if index.actions("running", "undoing", "emptying"):
            self._recover(index)
        return index

    def _recover(self, index: CacheIndex) -> None:
        """Finish or revert what a killed process left, unless a process is still at work."""
        from mdl.cachemgr.journal import root_mutex
        from mdl.errors import BusyError

        with contextlib.suppress(BusyError), root_mutex(self._where, self._mutex_file, wait=0.0):
            self._recover_locked(index)

    def _recover_locked(self, index: CacheIndex) -> None:
        """Recover while holding the mutex; the disk is read again after that."""
        from mdl.cachemgr.journal import recover

        notes = recover(index)
        if notes:
            self.notes += notes
            index.drop_view()

    @property
    def _mutex_file(self) -> Path:
        return self._file("lock")

    def _file(self, suffix: str) -> Path:
        """The path of one of mdl's own files about this root."""
        return Path(self.settings.home, "cache", f"{root_id(self.root)}.{suffix}")

    @contextlib.contextmanager
    def exclusive(self, *, wait: float = 10.0) -> Iterator[CacheIndex]:
        """Be the only mdl process that changes this root; recover unfinished actions first.

        Raises:
            BusyError: another one is at work.
            StoreError: the journal cannot be written.
        """
        from mdl.cachemgr.journal import root_mutex

        self.index.must_last()
        with root_mutex(self._where, self._mutex_file, wait=wait):
            self._recover_locked(self.index)
            try:
                yield self.index
            finally:
                self.index.forget_linked()
                self.index.keep_reserve()

    # Reading

    def survey(self, *, breakdowns: bool = False) -> Survey:
        """Every folder of the root; those that changed are read again."""
        return survey(self._where, self.index, breakdowns=breakdowns)

    def records(self) -> LocalRecords:
        """Pins, recorded use, the Hub's spellings and registered lock files."""
        used: dict[str, dict[str, float]] = {}
        for key, commit, at in self.index.used():
            used.setdefault(key, {})[commit] = at
        shared = read_keep(self._where)
        pins: dict[str, frozenset[str]] = {}
        for key, revision, *_ in (*self.index.pins(), *shared["pins"]):
            pins[key] = pins.get(key, frozenset()) | {revision}
        home = os.fspath(self.settings.home)
        ours = [(*row, home) for row in self.index.lock_files()]
        locked: dict[str, dict[str, str]] = {}
        for path, key, commit, owner in (*shared["locks"], *ours):
            if _in_force(path, ours=owner == home):
                locked.setdefault(key, {})[commit] = path
        restored: dict[str, dict[str, str]] = {}
        days, now = self.settings.cache.undo_days, time.time()
        for key, commit, at in (*self.index.restored(), *shared["restored"]):
            if now - at < days * 86400:
                why = f"restored {human_ago(at, now)}: left alone for {days:g} days (undo_days)"
                restored.setdefault(key, {})[commit] = why
        return LocalRecords(used, pins, self.index.canonical(), locked, restored)

    def list(self) -> Repos:
        """Every repository, all casings of it together."""
        return group(self.survey().summaries, self.records())

    def listing(self) -> tuple[Repos, Totals]:
        """`list`, and the totals of the root."""
        found = self.survey()
        repos = group(found.summaries, self.records())
        return repos, self._totals(found, repos)

    def _totals(self, found: Survey, repos: Sequence[CachedRepo]) -> Totals:
        from mdl.cachemgr.journal import trash_place

        size = physical(found.summaries, found.store)
        return Totals(
            repos=len(repos),
            revisions=sum(len(repo.revisions) for repo in repos),
            size_on_disk=size,
            logical_size=sum(repo.logical_size for repo in repos),
            reclaimable=sum(repo.reclaimable for repo in repos),
            incomplete_files=sum(repo.incomplete_files for repo in repos),
            incomplete_size=sum(repo.incomplete_size for repo in repos),
            no_exist_files=sum(summary.no_exist for summary in found.summaries),
            shared_store_size=sum(found.store.values()),
            xet_size=tree_size(self.root.parent / "xet")[1],
            trash_size=tree_size(trash_place(self.root).path)[1],
            problems=sum(len(repo.problems) for repo in repos),
            strangers=tuple(sorted(found.strangers)),
        )

    def folders_of(self, repo_id: str, repo_type: str = "model") -> Folders:
        """The folders of one repository in every casing, aliases included, read now."""
        from mdl.cachemgr.scan import scan_folder

        key = repo_key(repo_type, repo_id)
        marked = store_is_marked(self._where)
        return [
            scan_folder(self._where, name, marked=marked)
            for name in self._names()
            if repo_key(*(parse_folder(name) or ("", ""))) == key
        ]

    def _names(self) -> Names:
        try:
            return sorted(name for name in os.listdir(self.root) if parse_folder(name))
        except OSError:
            return []

    def repo(self, name: str, repo_type: str | None = None) -> CachedRepo:
        """One repository by its name in any casing; `dataset/org/name` names its type too.

        Raises:
            NotFoundError: it is not in this cache.
            UsageError: repositories of several types have that name.
        """
        repo_type, repo_id = split_name(name, repo_type)
        found = [
            repo
            for repo in self.list()
            if repo.repo_id.casefold() == repo_id.casefold()
            and (repo_type is None or repo.repo_type == repo_type)
        ]
        if not found:
            known = [parsed[1] for folder in self._names() if (parsed := parse_folder(folder))]
            raise NotFoundError(
                f"{name or repr(name)} is not in the cache {self.root}.",
                next=did_you_mean(repo_id, known, "`mdl cache ls` lists what is."),
            )
        if len(found) > 1:
            types = ", ".join(f"{repo.repo_type}/{repo.repo_id}" for repo in found)
            raise UsageError(
                f"{name} is the name of more than one repository.", next=f"Write one of: {types}."
            )
        return found[0]

    def placement(
        self,
        repo_id: str,
        commit: str | None = None,
        revision: str | None = None,
        allow_patterns: Sequence[str] | None = None,
        repo_type: str = "model",
    ) -> Placement:
        """Where a revision of a repository is on disk, in any casing.

        Reads only this repository's folders.

        Args:
            commit: the full hash; takes precedence over `revision`.
            revision: a ref or a commit; `main` when neither is given.
            allow_patterns: count only files that match one of these, as `snapshot_download` does.
        """
        wanted = commit or revision or "main"
        folders = [f for f in self.folders_of(repo_id, repo_type) if f.alias_of is None]
        placed = (self._place(folder, wanted, allow_patterns) for folder in folders)
        found = [each for each in placed if each is not None]
        if not found:
            known = wanted if is_hash(wanted, COMMIT_LENGTH) else None
            here = {s.commit: s.mtime for folder in folders for s in folder.snapshots}
            commits = tuple(sorted(here, key=lambda commit: -here[commit]))
            refs = {r for folder in folders for r, commit in folder.refs.items() if commit in here}
            return Placement(
                repo_id, repo_type, folders[0].repo_id if folders else None, known, "absent", None,
                0, commits=commits, revisions=(*sorted(refs), *commits),
            )  # fmt: skip
        order = {"complete": 0, "partial": 1, "broken": 2}
        return min(found, key=lambda p: (order[p.state], -p.bytes, spelling_rank(p.spelling or "")))

    def _place(
        self, folder: "Folder", wanted: str, patterns: Sequence[str] | None
    ) -> Placement | None:
        commit = folder.refs.get(wanted, wanted)
        snapshot = next((s for s in folder.snapshots if s.commit == commit), None)
        if snapshot is None:
            return None
        pointers = [p for p in snapshot.pointers if matches(p.path, patterns)]
        missing, state = snapshot.missing, snapshot.state
        if patterns is not None:
            from mdl.cachemgr.scan import read_tree_listing

            listed = read_tree_listing(self._where, folder.name, commit)
            if listed is not None and state != "broken":
                present = {pointer.path for pointer in snapshot.pointers}
                missing = tuple(sorted(set(listed) - present))
                lacking = any(matches(path, patterns) for path in missing)
                state = "complete" if pointers and not lacking else "partial"
            missing = tuple(path for path in missing if matches(path, patterns))
        return Placement(
            folder.repo_id,
            folder.repo_type,
            folder.repo_id,
            commit,
            state,
            self.root / folder.name / "snapshots" / commit,
            sum(folder.blobs[p.blob].size for p in pointers if p.blob is not None),
            missing,
        )

    # Use, lock files and pins

    def record_use(self, repo_id: str, commit: str, repo_type: str = "model") -> None:
        """Record that a revision is used now: the only last-used time that is reliable."""
        self.index.record_use(repo_key(repo_type, repo_id), commit, time.time())

    def register_lock(self, path: Path, entries: Iterable[tuple[str, str]]) -> None:
        """Register a lock file: no prune removes the (repo_id, commit) pairs it names."""
        pairs = [(repo_key("model", repo_id), commit) for repo_id, commit in entries]
        name, home = str(path.absolute()), os.fspath(self.settings.home)
        self.index.put_lock_file(name, pairs)

        def change(shared: Sections) -> None:
            rows = [row for row in shared["locks"] if (row[0], row[3]) != (name, home)]
            shared["locks"] = [*rows, *([name, key, commit, home] for key, commit in pairs)]

        self._share(change)

    @property
    def pins(self) -> Pins:
        found = {(key, revision): (repo_id, at) for key, revision, repo_id, at
                 in (*self.index.pins(), *read_keep(self._where)["pins"])}  # fmt: skip
        return [
            {"repo_id": repo_id, "repo_type": key.split("/")[0], "revision": revision or None,
             "at": at}
            for (key, revision), (repo_id, at) in sorted(found.items())
        ]  # fmt: skip

    def is_pinned(self, key: str, revision: str) -> bool:
        """Is there a pin written exactly so?"""
        return revision in self.records().pins.get(key, ())

    def add_pin(self, key: str, revision: str, repo_id: str) -> None:
        """Pin a repository, or a revision of it, for everyone who uses this root."""
        self.index.add_pin(key, revision, repo_id)

        def change(shared: Sections) -> None:
            rows = [row for row in shared["pins"] if row[:2] != [key, revision]]
            shared["pins"] = [*rows, [key, revision, repo_id, time.time()]]

        self._share(change)

    def remove_pin(self, key: str, revision: str) -> bool:
        """Remove a pin, whoever set it; false if there is none."""
        found = self.index.remove_pin(key, revision)
        if [key, revision] in [row[:2] for row in read_keep(self._where)["pins"]]:

            def change(shared: Sections) -> None:
                shared["pins"] = [row for row in shared["pins"] if row[:2] != [key, revision]]

            self._share(change)
            return True
        return found

    def record_restored(self, rows: Iterable[tuple[str, str]]) -> None:
        """Leave (repo_key, commit or '') alone for the grace period that the policy names."""
        now = time.time()
        found = [(key, commit, now) for key, commit in rows]
        forget = now - self.settings.cache.undo_days * 86400
        self.index.put_restored(found, forget=forget)

        def change(shared: Sections) -> None:
            kept = [row for row in shared["restored"] if row[2] >= forget]
            shared["restored"] = [*kept, *map(list, found)]

        self._share(change)

    def _share(self, change: Callable[[Sections], None]) -> None:
        if not update_keep(self._where, change):
            self.notes.append(
                "Only this MDL_HOME knows of this: nothing can be written beside the cache."
            )


def _in_force(path: str, *, ours: bool) -> bool:
    """Does a lock file still protect? One of another home, whose folder is not seen here, does."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return not ours and not os.path.isdir(os.path.dirname(path))
    return True


def matches(path: str, patterns: Sequence[str] | None) -> bool:
    """Does a file name match, by the rules of huggingface_hub's `allow_patterns`?"""
    if patterns is None:
        return True
    import fnmatch

    return any(
        fnmatch.fnmatch(path, f"{pattern}*" if pattern.endswith("/") else pattern)
        for pattern in patterns
    )
