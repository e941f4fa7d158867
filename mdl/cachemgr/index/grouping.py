"""Group folders into one entry per repository, as pure functions.

A `Summary` is what the index stores of a folder: enough for `ls` without reading the disk again.
Bytes that other folders may share (hard links, shared payloads) are kept separate, so that nothing
is counted twice when folders are added up.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mdl.cachemgr.layout import names_commit, parse_folder, repo_key, spelling_rank
from mdl.cachemgr.types import CachedRepo, CachedRevision

_STATE_ORDER = {"complete": 0, "partial": 1, "broken": 2}


class Summary(NamedTuple):
    """One folder, summarized.

    `own` counts the bytes that have no name outside this folder; `links` lists the other inodes as
    `(dev, ino, size, names in all, names here)` and `shared` the store's payloads as
    `(xet hash, size)`. `revisions` are `(commit, refs, size, files, state, mtime, formats)`.
    `keep_out` says why nothing in it may be moved or removed, or is empty.
    """

    name: str
    alias_of: str | None
    own: int
    logical: int
    blobs: int
    atime: float
    mtime: float
    incomplete_files: int
    incomplete_size: int
    no_exist: int
    keep_out: str
    revisions: list[Any]
    problems: list[str]
    links: list[Any]
    shared: list[Any]


def parse_summaries(names: Iterable[str], facts: Iterable[str]) -> list[Summary]:
    """The summaries behind the index's texts; parsing them together is far faster."""
    together = json.loads(f"[{','.join(facts)}]")
    return [Summary(name, *one) for name, one in zip(names, together, strict=True)]


class LocalRecords(NamedTuple):
    """What the index has recorded and the disk does not hold.

    Attributes:
        used: repo_key → commit → when it was last used.
        pins: repo_key → pinned revisions; `''` pins the repository.
        canonical: repo_key → the Hub's spelling.
        locked: repo_key → commit → the lock file that names it.
        restored: repo_key → commit, or `''` for what is of none → why it is left alone for now.
    """

    used: Mapping[str, Mapping[str, float]]
    pins: Mapping[str, frozenset[str]]
    canonical: Mapping[str, str]
    locked: Mapping[str, Mapping[str, str]]
    restored: Mapping[str, Mapping[str, str]]


NO_RECORDS = LocalRecords({}, {}, {}, {}, {})


class Member(NamedTuple):
    """A folder of a repository, and how its name spells the repository."""

    spelling: str
    summary: Summary


def group(summaries: Iterable[Summary], known: LocalRecords = NO_RECORDS) -> list[CachedRepo]:
    """One `CachedRepo` per repository, all its casings together, sorted by type and name."""
    groups: dict[str, list[Member]] = {}
    payload_users: dict[str, set[str]] = {}
    for summary in summaries:
        parsed = parse_folder(summary.name)
        if parsed is None:
            continue
        groups.setdefault(repo_key(*parsed), []).append(Member(parsed[1], summary))
        for payload, _ in summary.shared:
            payload_users.setdefault(payload, set()).add(summary.name)
    return [_repo(key, groups[key], known, payload_users) for key in sorted(groups)]


def _repo(
    key: str, members: list[Member], known: LocalRecords, payload_users: Mapping[str, set[str]]
) -> CachedRepo:
    if len(members) == 1:
        spelling, whole = members[0]
        real, problems = members, tuple(whole.problems)
        spellings: tuple[str, ...] = (spelling,)
        aliases: tuple[str, ...] = () if whole.alias_of is None else spellings
    else:
        members.sort(key=lambda member: (spelling_rank(member.spelling), -member.summary.own))
        whole = _together([member.summary for member in members])
        real = [member for member in members if member.summary.alias_of is None]
        aliases = tuple(m.spelling for m in members if m.summary.alias_of is not None)
        spellings = (*[member.spelling for member in real], *aliases)
        problems = tuple(f"{m.spelling}: {text}" for m in members for text in m.summary.problems)
    pins = known.pins.get(key, frozenset())
    used = known.used.get(key, {})
    size, reclaimable = _bytes(whole, members, payload_users)
    atime = whole.atime or None
    last_used = max(used.values()) if used else None
    return CachedRepo(
        known.canonical.get(key) or spellings[0],
        key.partition("/")[0],
        spellings,
        aliases,
        size,
        whole.logical,
        reclaimable,
        last_used if last_used is not None else atime,
        "journal" if last_used is not None else "atime" if atime else None,
        whole.mtime or None,
        bool(pins),
        _revisions(real, pins, used),
        whole.incomplete_files,
        whole.incomplete_size,
        problems,
    )


def _together(folders: list[Summary]) -> Summary:
    """Several folders added up as if they were one, except for their revisions."""
    return folders[0]._replace(
        own=sum([folder.own for folder in folders]),
        logical=sum([folder.logical for folder in folders]),
        atime=max([folder.atime for folder in folders]),
        mtime=max([folder.mtime for folder in folders]),
        incomplete_files=sum([folder.incomplete_files for folder in folders]),
        incomplete_size=sum([folder.incomplete_size for folder in folders]),
        links=[link for folder in folders for link in folder.links],
        shared=[payload for folder in folders for payload in folder.shared],
    )


def _bytes(
    whole: Summary, members: list[Member], payload_users: Mapping[str, set[str]]
) -> tuple[int, int]:
    """(bytes these folders occupy together, bytes that removing all of them frees)."""
    size = reclaimable = whole.own + whole.incomplete_size
    if not whole.links and not whole.shared:
        return size, reclaimable
    names: Counter[tuple[int, int]] = Counter()
    inodes: dict[tuple[int, int], tuple[int, int]] = {}
    for dev, ino, inode_size, links, here in whole.links:
        names[dev, ino] += here
        inodes[dev, ino] = (inode_size, links)
    for inode, (inode_size, links) in inodes.items():
        size += inode_size
        reclaimable += inode_size if names[inode] >= links else 0
    ours = {member.summary.name for member in members}
    for payload, payload_size in dict(whole.shared).items():
        size += payload_size
        reclaimable += payload_size if payload_users[payload] <= ours else 0
    return size, reclaimable


def _revisions(
    real: list[Member], pins: frozenset[str], used: Mapping[str, float]
) -> tuple[CachedRevision, ...]:
    """A repository's revisions, the most recently changed first."""
    found = [
        CachedRevision(commit, tuple(refs), size, files, state, mtime, spelling, used.get(commit),
                       is_pinned(pins, commit, refs), tuple(formats))
        for spelling, summary in real
        for commit, refs, size, files, state, mtime, formats in summary.revisions
    ]  # fmt: skip
    if len(real) > 1:
        merged: dict[str, CachedRevision] = {}
        for one in found:
            before = merged.get(one.commit)
            merged[one.commit] = one if before is None else _merged(before, one)
        found = list(merged.values())
    if len(found) > 1:
        found.sort(key=lambda revision: -revision.last_modified)
    return tuple(found)


def _merged(one: CachedRevision, other: CachedRevision) -> CachedRevision:
    """Merge a commit found in two spellings: the refs of both, the better state."""
    best = one if _STATE_ORDER[one.state] <= _STATE_ORDER[other.state] else other
    return best._replace(
        refs=tuple(sorted({*one.refs, *other.refs})),
        last_modified=max(one.last_modified, other.last_modified),
        pinned=one.pinned or other.pinned,
    )


def is_pinned(pins: frozenset[str], commit: str, refs: Iterable[str]) -> bool:
    """Is a revision pinned, through its repository, its commit or one of its refs?"""
    if not pins:
        return False
    return "" in pins or not pins.isdisjoint(refs) or any(names_commit(pin, commit) for pin in pins)


def physical(summaries: Iterable[Summary], store: Mapping[str, int]) -> int:
    """Bytes that a root occupies, counting each inode and each payload of the store once."""
    total = sum(store.values())
    inodes: dict[tuple[int, int], int] = {}
    for summary in summaries:
        total += summary.own + summary.incomplete_size
        inodes.update(((link[0], link[1]), link[2]) for link in summary.links)
    return total + sum(inodes.values())
