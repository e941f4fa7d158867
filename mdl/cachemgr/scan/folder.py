"""Read a repository folder in one lean pass; links out of it are followed as `links` says.

One `lstat` per blob, one `readlink` per pointer, one small read per ref, and of a model its
configuration and index; nothing is hashed. Anything unexpected (a loop, a FIFO, a folder in place
of a blob, an unprintable name) becomes a sentence in `problems`; only file system errors are
raised.
"""

import contextlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import replace

from mdl.cachemgr.layout import IN_PROGRESS, INCOMPLETE, SHA256_LENGTH, is_hash, parse_folder
from mdl.cachemgr.scan.directory import Directory, NotAFolder
from mdl.cachemgr.scan.links import alias_target, as_outside, follow_file, follow_folder
from mdl.cachemgr.scan.model import Blob, Folder, Incomplete, Pointer, Snapshot
from mdl.cachemgr.scan.needed import missing_from
from mdl.cachemgr.scan.snapshot_state import interrupted, state_of, wrong_sizes
from mdl.cachemgr.scan.stamps import change_stamp, read_small
from mdl.cachemgr.scan.tree_listing import ListedFile, read_tree_listing

MAX_ENTRIES = 200_000
MAX_DEPTH = 32
_SHOWN_PROBLEMS = 20
_ATTEMPTS = 20
_REGULAR = stat.S_IFREG >> 12
# A named tuple's constructor is a Python function, and hundreds of thousands are created here.
_new = tuple.__new__
_REF_TEMPORARY = re.compile(r".*\.[0-9a-f]{8}\.tmp")
_BLOB_TEMPORARY = re.compile(r"tmp_[0-9a-f-]{36}|\..*\.[0-9a-f]{8}\.shared")
_IGNORED = {".DS_Store"}


class _TooMany(Exception):
    """A folder with too many entries to list."""


def scan_folder(root: str, name: str, *, marked: bool) -> Folder:
    """Read one repository folder.

    Args:
        root: the cache root.
        name: an entry of the root that `parse_folder` understands.
        marked: the result of `store_is_marked(root)`.
    """
    parsed = parse_folder(name)
    if parsed is None:
        raise ValueError(f"{name!r} is not a repository folder")
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):  # something was removed while it was read
            return _scan_once(_Reader(root, name, marked), Folder(name, *parsed))
    return Folder(name, *parsed, problems=("changes faster than it can be read",), readable=False)


def _scan_once(reader: "_Reader", folder: Folder) -> Folder:
    try:
        status = os.lstat(reader.path)
    except OSError as error:
        return replace(folder, problems=(_sentence("", error),), readable=False)
    reader.probes.append(("", change_stamp(status)))
    alias = None
    if stat.S_ISLNK(status.st_mode):
        alias = alias_target(reader.root, folder.name)
        readable = alias is None and reader.follow()
        if alias is None and not readable:
            reader.problem("is a link out of this cache; it was not followed")
    else:
        readable = stat.S_ISDIR(status.st_mode)
        if not readable:
            reader.problem("is not a folder")
    if readable:
        try:
            folder = reader.read(folder)
        except _TooMany:
            reader.problem(f"holds more than {MAX_ENTRIES} entries; it was not read further")
            readable = False
    if reader.linked:
        blobs = as_outside(reader.root, folder.name, folder.blobs)
        folder = replace(folder, blobs=blobs, linked=reader.linked)
    return replace(
        folder, alias_of=alias, problems=reader.shown(), probes=tuple(reader.probes),
        readable=alias is not None or (readable and not reader.unreadable),
    )  # fmt: skip


def _sentence(where: str, error: OSError) -> str:
    return f"{where or 'the folder'} cannot be read: {error.strerror or error}"


class _Reader:
    """The state of one pass."""

    def __init__(self, root: str, name: str, marked: bool) -> None:
        self.root = root
        self.path = os.path.join(root, name)
        self.marked = marked
        self.problems: list[str] = []
        self.probes: list[tuple[str, int]] = []
        self.blobs: dict[str, Blob] = {}
        self.incomplete: list[Incomplete] = []
        self.unreadable = False
        self.linked = ""
        self.budget = MAX_ENTRIES

    def problem(self, sentence: str) -> None:
        self.problems.append(sentence)

    def shown(self) -> tuple[str, ...]:
        more = len(self.problems) - _SHOWN_PROBLEMS
        if more > 0:
            return (*self.problems[:_SHOWN_PROBLEMS], f"and {more} further problems")
        return tuple(self.problems)

    def follow(self) -> bool:
        """Read through the link that stands in the repository's place, if that may be."""
        real = follow_folder(self.path)
        if real is None:
            return False
        self.linked = real
        self.probes.append((".", change_stamp(os.stat(real))))
        return True

    def read(self, folder: Folder) -> Folder:
        self._read_blobs()
        refs = self._read_refs()
        trees = self._tree_names()
        snapshots = []
        for commit, mtime in self._snapshots():
            listed = None
            if f"{commit}.json" in trees:
                listed = read_tree_listing(self.root, folder.name, commit)
            snapshots.append(self._read_snapshot(folder, commit, mtime, listed))
        commits = {snapshot.commit for snapshot in snapshots}
        for ref, commit in refs.items():
            if commit not in commits:
                self.problem(f"the ref {ref!r} names {commit[:12]!r}, which is missing")
        if any(part.name.split(".")[0] not in self.blobs for part in self.incomplete):
            snapshots = interrupted(snapshots, trees)
        no_exist = self._count(".no_exist")
        return Folder(
            folder.name, folder.repo_type, folder.repo_id, None, self.blobs, tuple(snapshots),
            refs, tuple(self.incomplete), no_exist,
        )  # fmt: skip

    def _snapshots(self) -> list[tuple[str, float]]:
        """(name, mtime) of every folder in `snapshots`."""
        opened = self._open("snapshots", probe=True)
        if opened is None:
            return []
        found = []
        with opened:
            for entry in opened.entries:
                if entry.is_dir(follow_symlinks=False):
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_mtime))
                elif entry.is_symlink() and follow_folder(f"{opened.path}/{entry.name}"):
                    found.append((entry.name, os.stat(f"{opened.path}/{entry.name}").st_mtime))
                elif entry.name not in _IGNORED:
                    self.problem(f"snapshots/{entry.name} is not a folder; it was not followed")
        return found

    def _open(self, relative: str, *, probe: bool = False) -> Directory | None:
        """Open a folder below this one, for a `with`; `None` where there is none to read."""
        path = f"{self.path}/{relative}"
        try:
            try:
                opened = Directory(path, self.budget)
            except NotAFolder:
                real = follow_folder(path)
                if real is None:
                    raise
                opened = Directory(real, self.budget)
                self.linked = self.linked or real
        except FileNotFoundError:
            return None
        except NotAFolder:
            self.problem(f"{relative} is not a folder; it was not followed")
        except OSError as error:
            self.problem(_sentence(relative, error))
        else:
            if probe:
                # Behind a link, what the link leads to: its own stamp does not move.
                through = relative if opened.path == path else f"{relative}/."
                self.probes.append((through, opened.stamp))
            self.budget -= len(opened.entries)
            if self.budget < 0:
                with opened:
                    raise _TooMany
            return opened
        self.unreadable = True
        return None

    def _tree_names(self) -> set[str]:
        opened = self._open("trees", probe=True)
        if opened is None:
            return set()
        with opened:
            return {entry.name for entry in opened.entries}

    def _count(self, relative: str, depth: int = 0) -> int:
        """How many files are below a folder."""
        opened = self._open(relative)
        if opened is None:
            return 0
        with opened:
            folders = [e.name for e in opened.entries if e.is_dir(follow_symlinks=False)]
            files = len(opened.entries) - len(folders)
        if depth < MAX_DEPTH:
            files += sum(self._count(f"{relative}/{name}", depth + 1) for name in folders)
        return files

    def _read_blobs(self) -> None:
        opened = self._open("blobs", probe=True)
        if opened is None:
            return
        with opened:
            for entry in opened.entries:
                name = entry.name
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # a download's temporary file, renamed meanwhile
                    continue
                if status.st_mode >> 12 == _REGULAR and len(name) == SHA256_LENGTH:
                    self.blobs[name] = _blob(name, status)
                else:
                    self._read_blob(name, status)

    def _read_blob(self, name: str, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode):
            if name.endswith((INCOMPLETE, IN_PROGRESS)):
                self.incomplete.append(Incomplete(name, status.st_size, status.st_mtime))
            elif not _BLOB_TEMPORARY.fullmatch(name):
                self.blobs[name] = _blob(name, status)
        elif stat.S_ISLNK(status.st_mode):
            self._read_shared(name)
        else:
            self.problem(f"blobs/{name} is not a regular file")

    def _is_blob(self, name: str) -> bool:
        """Is there such a blob? One that appeared since `blobs` was listed is read now."""
        if name not in self.blobs:
            with contextlib.suppress(OSError):
                self._read_blob(name, os.lstat(os.path.join(self.path, "blobs", name)))
        return name in self.blobs

    def _read_shared(self, name: str) -> None:
        """Read a blob that is a link: only into the marked store, and only to a file there."""
        if _BLOB_TEMPORARY.fullmatch(name):
            return
        blobs = os.path.join(self.path, "blobs")
        target = os.path.normpath(os.path.join(blobs, os.readlink(os.path.join(blobs, name))))
        folder, payload = os.path.split(target)
        store = os.path.join(os.path.normpath(self.root), "blobs", payload[:2])
        if not self.marked or not is_hash(payload, SHA256_LENGTH) or folder != store:
            self.problem(f"blobs/{name} is a link out of this cache's stores; it was not followed")
            return
        try:
            status = os.lstat(target)
        except OSError:
            self.problem(f"blobs/{name} points to a shared payload that is missing")
            return
        if not stat.S_ISREG(status.st_mode):
            self.problem(f"blobs/{name} points to a shared payload that is not a file")
            return
        self.blobs[name] = Blob(
            name, status.st_size, ("shared", payload), 1, status.st_mtime, status.st_atime
        )

    def _read_refs(self) -> dict[str, str]:
        refs: dict[str, str] = {}
        waiting = ["refs"]
        while waiting:
            relative = waiting.pop()
            opened = self._open(relative, probe=True)
            if opened is None:
                continue
            with opened:
                for entry in opened.entries:
                    where = f"{relative}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        if where.count("/") < MAX_DEPTH:
                            waiting.append(where)
                    elif entry.name not in _IGNORED and not _REF_TEMPORARY.fullmatch(entry.name):
                        self._read_ref(where, refs)
        return refs

    def _read_ref(self, where: str, refs: dict[str, str]) -> None:
        try:
            data = read_small(os.path.join(self.path, where))
            # huggingface_hub writes no newline; a ref made by hand must still protect.
            refs[where.removeprefix("refs/")] = (data or b"").decode("ascii").strip()
            if data is None:
                raise ValueError
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            refs.pop(where.removeprefix("refs/"), None)
            self.problem(f"{where} is not a readable reference")

    def _read_snapshot(
        self, folder: Folder, commit: str, mtime: float, listed: Mapping[str, ListedFile] | None
    ) -> Snapshot:
        found: list[Pointer] = []
        problems: list[str] = []
        waiting = [(f"snapshots/{commit}", "", "../../blobs/")]
        while waiting:
            relative, prefix, up = waiting.pop()
            opened = self._open(relative, probe=True)
            if opened is None:
                continue
            with opened:
                for below in self._read_files(opened, relative, prefix, up, (found, problems)):
                    if below.count("/") > MAX_DEPTH:
                        problems.append(f"{below[:20]}… nests deeper than {MAX_DEPTH} folders")
                    else:
                        waiting.append((f"snapshots/{commit}/{below[:-1]}", below, f"../{up}"))
        problems += wrong_sizes(found, self.blobs, listed or {})
        is_model = folder.repo_type == "model"
        place = (self.root, folder.name)
        missing = missing_from(found, self.blobs, listed, place, is_model=is_model)
        state = state_of(found, missing, problems)
        problems = [f"{commit[:12]}: {problem}" for problem in problems]
        self.problems.extend(problems)
        return Snapshot(commit, tuple(found), state, mtime, missing, tuple(problems))

    def _read_files(
        self,
        opened: Directory,
        relative: str,
        prefix: str,
        up: str,
        into: tuple[list[Pointer], list[str]],
    ) -> list[str]:
        """Add one folder's pointers and problems; return its subfolders, each ending in `/`."""
        found, problems = into
        folders = []
        if self.linked and os.path.realpath(opened.path) != os.path.join(
            os.path.realpath(self.path), relative
        ):
            up = "\0"  # behind a link: relative links start elsewhere
        start = len(up)
        # Local names: a first listing spends most of its time in this loop.
        blobs, fd, readlink = self.blobs, opened.fd, os.readlink
        for item in opened.entries:
            path = prefix + item.name
            if item.is_symlink():
                target = readlink(item.path, dir_fd=fd)
                name = target[start:]
                if name not in blobs or not target.startswith(up):
                    elsewhere = self._leads_to(opened.path, item.name, target, relative)
                    found.append(Pointer(path, elsewhere))
                    if elsewhere is None:
                        problems.append(f"{path} points to no blob")
                else:
                    found.append(_new(Pointer, (path, name)))
            elif item.is_dir(follow_symlinks=False):
                folders.append(f"{path}/")
            elif item.is_file(follow_symlinks=False):
                # A copy in the snapshot itself, as where links are not supported.
                key = f"{relative}/{item.name}"
                blobs[key] = _blob(key, item.stat(follow_symlinks=False))
                found.append(Pointer(path, key))
            else:
                problems.append(f"{path} is not a regular file")
        return folders

    def _leads_to(self, folder: str, item: str, target: str, relative: str) -> str | None:
        """The blob that an unusually written link points to, or the plain file elsewhere."""
        start = os.path.realpath(folder) if self.linked else folder
        where, name = os.path.split(os.path.normpath(os.path.join(start, target)))
        here = os.path.realpath(self.path) if self.linked else os.path.normpath(self.path)
        if where == os.path.join(here, "blobs") and self._is_blob(name):
            return name
        outside = follow_file(f"{folder}/{item}")
        if outside is None:
            return None
        key = f"{relative}/{item}"
        self.blobs[key] = _blob(key, outside.status)._replace(
            inode=("outside", outside.path), links=1
        )
        return key


def _blob(name: str, status: os.stat_result) -> Blob:
    inode = (status.st_dev, status.st_ino)
    return _new(
        Blob, (name, status.st_size, inode, status.st_nlink, status.st_mtime, status.st_atime)
    )
