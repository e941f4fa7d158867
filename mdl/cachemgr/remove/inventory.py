"""The inventory that a prune plan is made from, as pure functions of the index's values."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mdl.cachemgr.index import ORPHANS, Breakdown, LocalRecords, Summary
from mdl.cachemgr.layout import names_commit, parse_folder, repo_key, spelling_rank
from mdl.cachemgr.remove.policy import BlobName, Inventory, Item


@dataclass(frozen=True)
class InUse:
    """What is in use right now.

    Attributes:
        downloads: folder → the etag being downloaded into it.
        open_revisions: (folder, commit) → a process that has one of its files open.
    """

    downloads: Mapping[str, str] = field(default_factory=dict)
    open_revisions: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Disk:
    """The root's size and the disk's free space in bytes, the store's payloads, and the time."""

    total: int
    free: int
    store: Mapping[str, int]
    now: float


class _Counts:
    """Bytes and names of every inode. Each part of a folder counts as one blob with one name."""

    def __init__(self) -> None:
        self.inodes: dict[BlobName, Any] = {}
        self.sizes: dict[Any, int] = {}
        self.names: dict[Any, int] = {}

    def add(self, blob: BlobName, inode: Any, size: int, names: int = 1) -> None:
        self.inodes[blob], self.sizes[inode], self.names[inode] = inode, size, names

    def add_parts(self, folder: str, breakdown: Breakdown) -> dict[int, list[BlobName]]:
        """Count a folder's parts; holder → the parts it needs."""
        needed: dict[int, list[BlobName]] = {}
        for number, part in enumerate(breakdown.parts):
            blob = (folder, str(number))
            if part.inode is None:
                self.add(blob, blob, part.size)
            else:
                inode = tuple(part.inode)
                if inode[0] == "shared":  # only its links in this cache count
                    names = self.names.get(inode, 0) + 1
                else:  # its names in this folder leave together
                    names = self.names.get(inode, part.links) - part.here + 1
                self.add(blob, inode, part.size, names)
            for holder in part.holders:
                needed.setdefault(holder, []).append(blob)
        return needed


class _Member(NamedTuple):
    """One folder of a repository. `needed`: holder → the parts it needs."""

    repo_id: str
    summary: Summary
    breakdown: Breakdown
    needed: Mapping[int, list[BlobName]]


def take_inventory(
    folders: Iterable[tuple[Summary, Breakdown]], records: LocalRecords, in_use: InUse, disk: Disk
) -> Inventory:
    """Everything that can be removed on its own, and why what is protected must stay."""
    counts = _Counts()
    by_key: dict[str, list[_Member]] = {}
    for summary, breakdown in folders:
        parsed = parse_folder(summary.name)
        if parsed is not None and summary.alias_of is None:
            needed = counts.add_parts(summary.name, breakdown)
            member = _Member(parsed[1], summary, breakdown, needed)
            by_key.setdefault(repo_key(*parsed), []).append(member)
    items: list[Item] = []
    for key in sorted(by_key):
        items += _of_repo(key, by_key[key], records, in_use, counts)
    for payload, size in disk.store.items():
        inode, blob = ("shared", payload), ("blobs", payload)
        if inode not in counts.names:
            counts.add(blob, inode, size)
            items.append(
                Item("payload", f"store/{payload}", "(shared store)", "store", None, (),
                     frozenset([blob]), 0.0, 0.0, ("blobs",), files=(payload,))
            )  # fmt: skip
    return Inventory(
        tuple(items), counts.inodes, counts.sizes, counts.names, disk.total, disk.free, disk.now
    )


def _of_repo(
    key: str, members: list[_Member], records: LocalRecords, in_use: InUse, counts: _Counts
) -> Iterator[Item]:
    repo_type = key.partition("/")[0]
    repo_id = records.canonical.get(key) or min(
        (member.repo_id for member in members), key=spelling_rank
    )
    whole = next((reason for member in members if (reason := _untouchable(member, in_use))), "")
    places: dict[str, list[tuple[_Member, int]]] = {}
    for member in members:
        for position, revision in enumerate(member.summary.revisions):
            places.setdefault(revision[0], []).append((member, position))
    used = records.used.get(key, {})
    for commit, found in sorted(places.items()):
        refs = tuple(sorted({ref for member, position in found
                             for ref in member.summary.revisions[position][1]}))  # fmt: skip
        changed = max(member.summary.revisions[position][5] for member, position in found)
        hints = [member.breakdown.accessed[position] for member, position in found]
        hint = max((at for at in hints if at is not None), default=changed)
        protected = (
            whole
            or protection(key, commit, refs, records)
            or _opened(found, commit, in_use)
            or records.restored.get(key, {}).get(commit, "")
        )
        formats = dict.fromkeys(name for member, position in found
                                for name in member.summary.revisions[position][6])  # fmt: skip
        needed = (blob for member, position in found for blob in member.needed.get(position, ()))
        yield Item("revision", key, repo_id, repo_type, commit, refs, frozenset(needed), changed,
                   used.get(commit, hint), tuple(member.summary.name for member, _ in found),
                   protected, formats=tuple(formats))  # fmt: skip
    whole = whole or protection(key, "", (), records) or records.restored.get(key, {}).get("", "")
    for member in members:
        yield from _garbage(Item("orphan", key, repo_id, repo_type, None, (), frozenset(), 0.0, 0.0,
                                 (member.summary.name,), whole), member, counts)  # fmt: skip


def _untouchable(member: _Member, in_use: InUse) -> str:
    """Why nothing may be removed from a folder, or `''`."""
    etag = in_use.downloads.get(member.summary.name)
    if etag is not None:
        return f"a download is running ({member.repo_id}, {etag[:12]})"
    reason = member.summary.keep_out
    return f"{reason}: see `mdl cache show`" if reason else ""


def protection(key: str, commit: str, refs: tuple[str, ...], records: LocalRecords) -> str:
    """Why a revision must stay, or `''`; `commit` is empty for what belongs to no revision."""
    pins = records.pins.get(key, frozenset())
    if "" in pins:
        return "pinned"
    if any(names_commit(pin, commit) for pin in pins):
        return "pinned by its commit"
    named = [ref for ref in refs if ref in pins]
    if named:
        return f"pinned as {named[0]}"
    lock_file = records.locked.get(key, {}).get(commit)
    return f"named in the lock file {lock_file}" if lock_file else ""


def _opened(places: list[tuple[_Member, int]], commit: str, in_use: InUse) -> str:
    for member, _ in places:
        pid = in_use.open_revisions.get((member.summary.name, commit))
        if pid is not None:
            return f"open in process {pid}"
    return ""


def _garbage(like: Item, member: _Member, counts: _Counts) -> Iterator[Item]:
    """A folder's blobs that no snapshot names, as one item, and each unfinished download."""
    breakdown = member.breakdown
    if breakdown.orphans:
        yield replace(
            like, blobs=frozenset(member.needed[ORPHANS]), modified=breakdown.orphaned,
            last_used=breakdown.orphaned, files=tuple(sorted(breakdown.orphans)),
        )  # fmt: skip
    for name, size, written in breakdown.incomplete:
        blob = (member.summary.name, name)
        counts.add(blob, ("incomplete", *blob), size)
        yield replace(like, kind="incomplete", blobs=frozenset([blob]), modified=written,
                      last_used=written, files=(name,))  # fmt: skip
