"""Plan a normalization: which repositories need it, and the operations for each.

`compose` is used twice: for the plan that is shown, and again under locks for what is done.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from mdl.cachemgr.index import Summary
from mdl.cachemgr.layout import (
    SHA256_LENGTH,
    folder_name,
    is_hash,
    parse_folder,
    repo_key,
    spelling_rank,
)
from mdl.cachemgr.normalize.operations import (
    Extras,
    MergedFolder,
    Pair,
    Steps,
    duplicate_blobs,
    share,
    swap_for_link,
)
from mdl.cachemgr.normalize.spelling import Canonical
from mdl.cachemgr.normalize.to_shared_blobs import store_blobs
from mdl.cachemgr.normalize.types import CannotNormalize, Group, NormalizePlan, NormalizeRequest
from mdl.cachemgr.scan import Folder, same_content, scan_folder, store_is_marked

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache

NO_EXTRAS = Extras(frozenset(), frozenset(), {})


class _Member(NamedTuple):
    """One folder of a repository, as the index has it."""

    repo_type: str
    repo_id: str
    summary: Summary


class FolderReader:
    """Reads folders of one root, for a plan or again under locks."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.marked = store_is_marked(root)

    def read(self, names: Sequence[str]) -> list[Folder]:
        return [scan_folder(self.root, name, marked=self.marked) for name in names]


def plan_normalize(
    cache: "Cache", request: NormalizeRequest, canonical: Canonical
) -> NormalizePlan:
    """What normalizing would do; content is not compared yet, and nothing is changed.

    Reads only the folders that may need something, according to the index.
    """
    root = os.fspath(cache.root)
    if not os.path.lexists(root):
        return NormalizePlan(request, (), (f"{root} does not exist: nothing to do.",))
    notes: tuple[str, ...] = ()
    if _ignores_case(root):
        notes = ("This disk ignores case: every casing finds the same folder.",)
        if not (request.across or request.store):
            return NormalizePlan(request, (), notes)
        request = replace(request, to="shared")  # a folder cannot be folded into itself
    reader = FolderReader(root)
    summaries = cache.survey().summaries
    groups = [
        group
        for members in _by_repo(summaries, request).values()
        if (group := _plan_repo(reader, members, request, canonical)) is not None
    ]
    if request.across:
        groups += _across_group(reader, [summary.name for summary in summaries], request)
    return NormalizePlan(request, tuple(groups), notes)


def _by_repo(summaries: Iterable[Summary], request: NormalizeRequest) -> dict[str, list[_Member]]:
    groups: dict[str, list[_Member]] = {}
    for summary in summaries:
        parsed = parse_folder(summary.name)
        if parsed is not None and request.covers(key := repo_key(*parsed)):
            groups.setdefault(key, []).append(_Member(*parsed, summary))
    return groups


def _plan_repo(
    reader: FolderReader,
    members: Sequence[_Member],
    request: NormalizeRequest,
    canonical: Canonical,
) -> Group | None:
    """One repository's part of the plan; `None` where nothing is to be done."""
    real = [member for member in members if member.summary.alias_of is None]
    if not real:
        return None
    likeliest = min(real, key=lambda member: spelling_rank(member.repo_id))
    target, skipped, steps = None, "", Steps("")
    names = [member.summary.name for member in members]
    try:
        target = _target(likeliest.repo_type, likeliest.repo_id, request, canonical)
        name = None if target is None else folder_name(target, likeliest.repo_type)
        if _is_normal(members, name) and not (request.store and reader.marked):
            return None
        compose(reader.root, steps, reader.read(names), request, target, compare=False)
        if name is not None and name not in names:
            names.append(name)
    except CannotNormalize as refused:
        skipped = str(refused)
    if not steps.in_order and not skipped:
        return None
    return Group(
        target or likeliest.repo_id,
        likeliest.repo_type,
        tuple(member.repo_id for member in members),
        target,
        tuple(names),
        len(steps.in_order),
        0 if skipped else steps.saved,
        skipped,
    )


def _is_normal(members: Sequence[_Member], name: str | None) -> bool:
    """Is a repository a single folder (named `name`, if given) that every alias points to?

    One that cannot be fully read, or has links out of the cache, is not: the plan says so.
    """
    real = [member.summary for member in members if member.summary.alias_of is None]
    if len(real) > 1 or real[0].keep_out:
        return False
    aliases = {member.summary.alias_of for member in members} - {None}
    return name is None or (real[0].name == name and aliases <= {name})


def ordered(folders: Sequence[Folder]) -> list[Folder]:
    """The real folders, likeliest spelling first."""
    real = [folder for folder in folders if folder.alias_of is None]
    return sorted(real, key=lambda folder: spelling_rank(folder.repo_id))


def _target(
    repo_type: str, repo_id: str, request: NormalizeRequest, canonical: Canonical
) -> str | None:
    """The spelling to fold into, `None` for sharing.

    Raises:
        CannotNormalize: the Hub's spelling is not known.
    """
    if request.to == "shared":
        return None
    if request.to == "lower":
        return repo_id.lower()
    spelling = canonical(repo_type, repo_id)
    if spelling is None or spelling.casefold() != repo_id.casefold():
        raise CannotNormalize(
            "the Hub's spelling is not known: the Hub did not tell it, or was not reached"
        )
    return spelling


def compose(
    root: str,
    steps: Steps,
    folders: Sequence[Folder],
    request: NormalizeRequest,
    target: str | None,
    *,
    compare: bool,
) -> None:
    """Add the steps that normalize one repository.

    Raises:
        CannotNormalize: it cannot be done to this repository.
    """
    real = ordered(folders)
    for folder in real:
        if folder.keep_out:
            raise CannotNormalize(f"{folder.name}: {folder.keep_out}")
        if target is not None and any(blob.inode[0] == "outside" for blob in folder.blobs.values()):
            raise CannotNormalize(f"{folder.name} has links to files outside the cache")
    extras = {folder.name: read_extras(root, folder) for folder in real}
    join(root, steps, duplicate_blobs(root, real), real, compare=compare)
    if target is None:
        for folder in real:
            merged = MergedFolder(root, folder.name, folder, extras[folder.name])
            for source in real:
                if source is not folder:
                    merged.add_from(steps, source, extras[source.name], everything=False)
    else:
        _fold(root, steps, folders, extras, target)
    if request.store:
        store_blobs(root, steps, real, compare=compare)


def join(
    root: str, steps: Steps, pairs: Sequence[Pair], real: Sequence[Folder], *, compare: bool
) -> None:
    if compare:
        for pair in pairs:
            if not same_content(pair.keep, pair.path):
                raise CannotNormalize(
                    f"{os.path.relpath(pair.path, root)} has the same blob name as its copy but"
                    " different content: run `mdl cache verify`"
                )
    links = {
        os.path.join(root, folder.name, "blobs", blob.name): blob.links
        for folder in real
        for blob in folder.blobs.values()
    }
    share(steps, pairs, links)


def _fold(
    root: str,
    steps: Steps,
    folders: Sequence[Folder],
    extras: Mapping[str, Extras],
    target: str,
) -> None:
    real = ordered(folders)
    name = folder_name(target, real[0].repo_type)
    there = next((folder for folder in folders if folder.name == name), None)
    sources = [folder for folder in real if folder.name != name]
    if there is not None and there.alias_of is not None:
        steps.blobs.append(
            {"op": "move", "from": os.path.join(root, name),
             "to": os.path.join(steps.staging, f"alias-{name}")}
        )  # fmt: skip
        there = None
    merged = MergedFolder(root, name, there, extras.get(name, NO_EXTRAS))
    for source in sources:
        merged.add_from(steps, source, extras[source.name], everything=True)
    for source in sources:
        swap_for_link(steps, root, source.name, name)
    for alias in folders:
        if alias.alias_of not in (None, name) and alias.name != name:
            _redirect(root, steps, alias.name, name)


def _redirect(root: str, steps: Steps, alias: str, name: str) -> None:
    """Point an alias to the folder itself: an alias of an alias could come to dangle."""
    path = os.path.join(root, alias)
    steps.swaps.append(
        {"op": "move", "from": path, "to": os.path.join(steps.staging, f"alias-{alias}")}
    )
    steps.swaps.append({"op": "symlink", "text": name, "path": path})


def read_extras(root: str, folder: Folder) -> Extras:
    """Read what `scan_folder` does not."""
    base = os.path.join(root, folder.name)
    trees: frozenset[str] = frozenset()
    with contextlib.suppress(OSError):
        trees = frozenset(name for name in os.listdir(os.path.join(base, "trees"))
                          if name.endswith(".json"))  # fmt: skip
    markers = set()
    place = os.path.join(base, ".no_exist")
    for where, _, files in os.walk(place):
        markers |= {os.path.relpath(os.path.join(where, name), place) for name in files}
    times = {}
    for ref in folder.refs:
        with contextlib.suppress(OSError):
            times[ref] = os.lstat(os.path.join(base, "refs", ref)).st_mtime
    return Extras(trees, frozenset(markers), times)


def _across_group(
    reader: FolderReader, names: Sequence[str], request: NormalizeRequest
) -> list[Group]:
    folders = ordered(reader.read(names))
    steps = Steps("")
    pairs = across_pairs(reader.root, folders, request)
    join(reader.root, steps, pairs, folders, compare=False)
    if not pairs:
        return []
    touched = {os.path.relpath(path, reader.root).split(os.sep)[0]
               for pair in pairs for path in pair[:2]}  # fmt: skip
    return [
        Group("(across repositories)", "", (), None, tuple(sorted(touched)), len(steps.in_order),
              steps.saved)
    ]  # fmt: skip


def across_pairs(root: str, folders: Sequence[Folder], request: NormalizeRequest) -> list[Pair]:
    """Equal blobs of different repositories; only those named by sha256, as large files are."""
    keys = {folder.name: repo_key(folder.repo_type, folder.repo_id) for folder in folders}

    def key_of(path: str) -> str:
        return keys[os.path.relpath(path, root).split(os.sep)[0]]

    return [
        pair
        for pair in duplicate_blobs(root, folders)
        if is_hash(os.path.basename(pair.path), SHA256_LENGTH)
        and key_of(pair.keep) != key_of(pair.path)
        and (request.covers(key_of(pair.keep)) or request.covers(key_of(pair.path)))
    ]


def _ignores_case(root: str) -> bool:
    """Is an entry also found under a spelling that is not listed?

    Inode numbers do not show it: some of these disks invent another one for every spelling.
    """
    try:
        listed = set(os.listdir(root))
    except OSError:
        return False
    swapped = next((n.swapcase() for n in listed if n.swapcase() not in (n, *listed)), None)
    return swapped is not None and os.path.lexists(os.path.join(root, swapped))
