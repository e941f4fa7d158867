"""Facts → one logical entry per repository, as pure functions.

A `Summary` is what the index keeps of a folder: enough for `ls` without reading the disk again.
Bytes with other names (hard links, shared payloads) stay apart from those of this folder alone,
so that groups of folders can be counted without counting anything twice.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mdl.cachemgr.layout import parse_folder, repo_key, spelling_rank
from mdl.cachemgr.values import CachedRepo, CachedRevision

_STATE_ORDER = {"complete": 0, "partial": 1, "broken": 2}


class Summary(NamedTuple):
    """One folder, summed up.

    `own` counts the bytes whose every name is in this folder; `links` has the other inodes as
    `(dev, ino, size, names in all, names here)` and `shared` the store's payloads as
    `(xet hash, size)`. `revisions` are `(commit, refs, size, files, state, mtime)`.
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
    readable: bool
    revisions: list[Any]
    problems: list[str]
    links: list[Any]
    shared: list[Any]

    @property
    def size(self) -> int:
        linked: int = sum(link[2] for link in self.links)
        shared: int = sum(payload[1] for payload in self.shared)
        return self.own + linked + shared


def from_row(name: str, facts: str) -> Summary:
    return Summary(name, *json.loads(facts))


class Knowledge(NamedTuple):
    """What the index knows and the disk does not.

    Attributes:
        used: repo_key → commit → when it was last used.
        pins: repo_key → pinned revisions; `''` pins the whole repository.
        canonical: repo_key → the Hub's spelling.
        locked: repo_key → commit → the lock file that names it.
    """

    used: Mapping[str, Mapping[str, float]]
    pins: Mapping[str, frozenset[str]]
    canonical: Mapping[str, str]
    locked: Mapping[str, Mapping[str, str]]


NOTHING_KNOWN = Knowledge({}, {}, {}, {})


def group(summaries: Iterable[Summary], known: Knowledge = NOTHING_KNOWN) -> list[CachedRepo]:
    """One `CachedRepo` per repository, all casings together, sorted by type and name."""
    groups: dict[str, list[Summary]] = {}
    payload_users: dict[str, set[str]] = {}
    for summary in summaries:
        parsed = parse_folder(summary.name)
        if parsed is None:
            continue
        key = repo_key(*parsed)
        groups.setdefault(key, []).append(summary)
        for payload, _ in summary.shared:
            payload_users.setdefault(payload, set()).add(summary.name)
    return [_repo(key, groups[key], known, payload_users) for key in sorted(groups)]


def _repo(
    key: str, members: list[Summary], known: Knowledge, payload_users: Mapping[str, set[str]]
) -> CachedRepo:
    spellings = {member.name: _spelling(member.name) for member in members}
    real = sorted(
        (member for member in members if member.alias_of is None),
        key=lambda member: (spelling_rank(spellings[member.name]), -member.own),
    )
    shown = known.canonical.get(key) or spellings[(real or members)[0].name]
    pins = known.pins.get(key, frozenset())
    used = known.used.get(key, {})
    size, reclaimable = _bytes(members, payload_users)
    atime = max((member.atime for member in members), default=0.0) or None
    last_used = max(used.values(), default=None)
    return CachedRepo(
        repo_id=shown,
        repo_type=key.split("/", 1)[0],
        spellings=tuple(spellings[member.name] for member in real)
        + tuple(sorted(spellings[member.name] for member in members if member.alias_of)),
        aliases=tuple(sorted(spellings[member.name] for member in members if member.alias_of)),
        size_on_disk=size,
        logical_size=sum(member.logical for member in members),
        reclaimable=reclaimable,
        last_used=last_used if last_used is not None else atime,
        last_used_source="journal" if last_used is not None else "atime" if atime else None,
        last_modified=max((member.mtime for member in members), default=0.0) or None,
        pinned=bool(pins),
        revisions=_revisions(real, spellings, pins, used),
        incomplete_files=sum(member.incomplete_files for member in members),
        incomplete_size=sum(member.incomplete_size for member in members),
        problems=tuple(
            problem if len(members) == 1 else f"{spellings[member.name]}: {problem}"
            for member in members
            for problem in member.problems
        ),
    )


def _spelling(name: str) -> str:
    parsed = parse_folder(name)
    return parsed[1] if parsed else name


def _bytes(members: list[Summary], payload_users: Mapping[str, set[str]]) -> tuple[int, int]:
    """(what these folders occupy together, what the disk regains when they all go)."""
    own = sum(member.own + member.incomplete_size for member in members)
    size = reclaimable = own
    names: Counter[tuple[int, int]] = Counter()
    inodes: dict[tuple[int, int], tuple[int, int]] = {}
    payloads: dict[str, int] = {}
    for member in members:
        for dev, ino, inode_size, links, here in member.links:
            names[dev, ino] += here
            inodes[dev, ino] = (inode_size, links)
        payloads.update((payload, payload_size) for payload, payload_size in member.shared)
    for inode, (inode_size, links) in inodes.items():
        size += inode_size
        reclaimable += inode_size if names[inode] >= links else 0
    folders = {member.name for member in members}
    for payload, payload_size in payloads.items():
        size += payload_size
        reclaimable += payload_size if payload_users[payload] <= folders else 0
    return size, reclaimable


def _revisions(
    real: list[Summary],
    spellings: Mapping[str, str],
    pins: frozenset[str],
    used: Mapping[str, float],
) -> tuple[CachedRevision, ...]:
    """The same commit in two spellings is one revision: refs together, the best state wins."""
    merged: dict[str, CachedRevision] = {}
    for member in real:
        for commit, refs, size, files, state, mtime in member.revisions:
            before = merged.get(commit)
            together = tuple(sorted({*refs, *(before.refs if before else ())}))
            if before and _STATE_ORDER[before.state] <= _STATE_ORDER[state]:
                size, files, state = before.size, before.files, before.state
                spelling = before.spelling
            else:
                spelling = spellings[member.name]
            merged[commit] = CachedRevision(
                commit,
                together,
                size,
                files,
                state,
                max(mtime, before.last_modified if before else mtime),
                spelling,
                used.get(commit),
                is_pinned(pins, commit, together),
            )
    return tuple(sorted(merged.values(), key=lambda revision: -revision.last_modified))


def is_pinned(pins: frozenset[str], commit: str, refs: Iterable[str]) -> bool:
    """Is a revision pinned, by its repository, by its commit, or by one of its refs?"""
    return bool(pins) and ("" in pins or commit in pins or not pins.isdisjoint(refs))


def physical(summaries: Iterable[Summary], store: Mapping[str, int]) -> int:
    """Bytes a whole root occupies: each inode and each payload of the store once."""
    total = sum(store.values())
    inodes: dict[tuple[int, int], int] = {}
    for summary in summaries:
        total += summary.own + summary.incomplete_size
        inodes.update(((link[0], link[1]), link[2]) for link in summary.links)
    return total + sum(inodes.values())
