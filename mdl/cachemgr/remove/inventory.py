"""Facts and knowledge → the inventory that a prune plan is made from, as pure functions."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mdl.cachemgr.index import LocalRecords
from mdl.cachemgr.layout import names_commit, repo_key, spelling_rank
from mdl.cachemgr.remove.policy import BlobName, Inventory, Item
from mdl.cachemgr.scan import Folder, Snapshot


@dataclass(frozen=True)
class InUse:
    """Who is working where, right now.

    Attributes:
        downloads: folder → the etag being downloaded into it.
        open_files: path relative to the root → a process that has it open.
    """

    downloads: Mapping[str, str] = field(default_factory=dict)
    open_files: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Disk:
    """The root as a whole: bytes it occupies, bytes left to use, the store's payloads, the time."""

    total: int
    free: int
    store: Mapping[str, int]
    now: float


def take_inventory(
    folders: Iterable[Folder], known: LocalRecords, in_use: InUse, disk: Disk
) -> Inventory:
    """Everything that can be removed on its own, and why what is protected must stay."""
    folders = [folder for folder in folders if folder.alias_of is None]
    inodes: dict[BlobName, Any] = {}
    sizes: dict[Any, int] = {}
    names: dict[Any, int] = {}
    payload_names: Counter[Any] = Counter()
    by_key: dict[str, list[Folder]] = {}
    for folder in folders:
        by_key.setdefault(repo_key(folder.repo_type, folder.repo_id), []).append(folder)
        for blob in folder.blobs.values():
            inodes[folder.name, blob.name] = blob.inode
            sizes[blob.inode] = blob.size
            names[blob.inode] = blob.links
            if blob.inode[0] == "shared":
                payload_names[blob.inode] += 1
        for part in folder.incomplete:
            inode = ("incomplete", f"{folder.name}/{part.name}")
            inodes[folder.name, part.name] = inode
            sizes[inode], names[inode] = part.size, 1
    names.update(payload_names)
    items: list[Item] = []
    for key in sorted(by_key):
        items += _of_repo(key, by_key[key], known, in_use)
    for payload, size in disk.store.items():
        shared = ("shared", payload)
        if shared not in payload_names:
            blob_name = ("blobs", payload)
            inodes[blob_name], sizes[shared], names[shared] = shared, size, 1
            items.append(Item("payload", f"store/{payload}", "(shared store)", "store", None, (),
                              frozenset([blob_name]), 0.0, 0.0, ("blobs",)))  # fmt: skip
    return Inventory(tuple(items), inodes, sizes, names, disk.total, disk.free, disk.now)


def _of_repo(key: str, folders: list[Folder], known: LocalRecords, in_use: InUse) -> list[Item]:
    repo_type = folders[0].repo_type
    repo_id = known.canonical.get(key) or min(
        (folder.repo_id for folder in folders), key=spelling_rank
    )
    whole = next((reason for folder in folders if (reason := _untouchable(folder, in_use))), "")
    holders: dict[str, list[tuple[Folder, Snapshot]]] = {}
    for folder in folders:
        for snapshot in folder.snapshots:
            holders.setdefault(snapshot.commit, []).append((folder, snapshot))
    items = []
    for commit, places in sorted(holders.items()):
        blobs = frozenset(
            (folder.name, pointer.blob)
            for folder, snapshot in places
            for pointer in snapshot.pointers
            if pointer.blob is not None
        )
        refs = tuple(sorted({ref for folder, _ in places for ref in folder.refs_of(commit)}))
        changed, hint = _times(places)
        used = known.used.get(key, {}).get(commit)
        protected = whole or protection(key, commit, refs, known) or _opened(places, in_use)
        items.append(
            Item("revision", key, repo_id, repo_type, commit, refs, blobs, changed,
                 used if used is not None else hint,
                 tuple(folder.name for folder, _ in places), protected)
        )  # fmt: skip
    whole = whole or protection(key, "", (), known)
    for folder in folders:
        items += _garbage(key, repo_id, folder, whole)
    return items


def _untouchable(folder: Folder, in_use: InUse) -> str:
    """Why nothing of a folder may be removed, or `''`."""
    etag = in_use.downloads.get(folder.name)
    if etag is not None:
        return f"a download is running ({folder.repo_id}, {etag[:12]})"
    if not folder.readable:
        return "its folder cannot be read whole: see `mdl cache show`"
    return ""


def protection(key: str, commit: str, refs: tuple[str, ...], known: LocalRecords) -> str:
    """Why a revision must stay, or `''`; of what belongs to none, `commit` is empty."""
    pins = known.pins.get(key, frozenset())
    if "" in pins:
        return "pinned"
    if any(names_commit(pin, commit) for pin in pins):
        return "pinned by its commit"
    named = [ref for ref in refs if ref in pins]
    if named:
        return f"pinned as {named[0]}"
    lock_file = known.locked.get(key, {}).get(commit)
    return f"named in the lock file {lock_file}" if lock_file else ""


def _opened(places: list[tuple[Folder, Snapshot]], in_use: InUse) -> str:
    """Which process has a file of this revision open; a store payload counts for its links."""
    if not in_use.open_files:
        return ""
    for folder, snapshot in places:
        for pointer in snapshot.pointers:
            if pointer.blob is None:
                continue
            inode = folder.blobs[pointer.blob].inode
            where = f"{folder.name}/blobs/{pointer.blob}"
            if pointer.blob.startswith("snapshots/"):
                where = f"{folder.name}/{pointer.blob}"
            elif inode[0] == "shared":
                where = f"blobs/{inode[1][:2]}/{inode[1]}"
            pid = in_use.open_files.get(where)
            if pid is not None:
                return f"open in process {pid}"
    return ""


def _times(places: list[tuple[Folder, Snapshot]]) -> tuple[float, float]:
    """(last changed, last used as far as atime hints) of a revision."""
    blobs = [
        folder.blobs[pointer.blob]
        for folder, snapshot in places
        for pointer in snapshot.pointers
        if pointer.blob is not None
    ]
    changed = max((blob.mtime for blob in blobs), default=0.0)
    if not blobs:
        changed = max(snapshot.mtime for _, snapshot in places)
    return changed, max((blob.atime for blob in blobs), default=changed)


def _garbage(key: str, repo_id: str, folder: Folder, protected: str) -> list[Item]:
    """A folder's blobs that no snapshot names, together, and each unfinished download."""
    named = {pointer.blob for snapshot in folder.snapshots for pointer in snapshot.pointers}
    orphans = [blob for blob in folder.blobs.values() if blob.name not in named]
    items = []
    if orphans:
        newest = max(blob.mtime for blob in orphans)
        items.append(
            Item("orphan", key, repo_id, folder.repo_type, None, (),
                 frozenset((folder.name, blob.name) for blob in orphans), newest, newest,
                 (folder.name,), protected)
        )  # fmt: skip
    for part in folder.incomplete:
        items.append(
            Item("incomplete", key, repo_id, folder.repo_type, None, (),
                 frozenset([(folder.name, part.name)]), part.mtime, part.mtime,
                 (folder.name,), protected)
        )  # fmt: skip
    return items
