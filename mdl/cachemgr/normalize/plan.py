"""What normalizing a root would do: look at every repository, compose its operations.

`compose` is used twice: for the plan that is shown, and again under locks for what is done.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mdl.cachemgr.layout import (
    SHA256_LENGTH,
    folder_name,
    is_hash,
    parse_folder,
    repo_key,
    spelling_rank,
)
from mdl.cachemgr.normalize.operations import (
    Draft,
    Extras,
    Pair,
    Taker,
    duplicate_blobs,
    share,
    swap_for_link,
)
from mdl.cachemgr.normalize.to_shared_blobs import store_blobs
from mdl.cachemgr.scan import Folder, same_content, scan_folder, store_is_marked
from mdl.hub_http import http_library

if TYPE_CHECKING:
    from mdl.cachemgr.cache import Cache

# (repo_type, one of the spellings) → the Hub's spelling, or None where nobody knows.
Canonical = Callable[[str, str], str | None]
NO_EXTRAS = Extras(frozenset(), frozenset(), {})


@dataclass(frozen=True)
class NormalizeRequest:
    """What to normalize.

    Attributes:
        to: `shared`, `hub` or `lower`.
        only: one repository's key, or all.
        across: join equal blobs of different repositories too, one of them covered by the request.
        store: move blobs whose Xet hash is known into huggingface_hub's shared store.
        repo_type: only repositories of this type.
    """

    to: str = "shared"
    only: str | None = None
    across: bool = False
    store: bool = False
    repo_type: str | None = None

    def covers(self, key: str) -> bool:
        """Is the repository with this key to be normalized?"""
        return self.only in (None, key) and self.repo_type in (None, key.partition("/")[0])


@dataclass(frozen=True)
class Group:
    """One repository's part of a plan: what is done, or why it is left alone."""

    repo_id: str
    repo_type: str
    spellings: tuple[str, ...]
    target: str | None
    folders: tuple[str, ...]
    operations: int
    saved: int
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "repo_id": self.repo_id,
            "repo_type": self.repo_type,
            "spellings": list(self.spellings),
            "target": self.target,
            "operations": self.operations,
            "saved": self.saved,
            "skipped": self.skipped or None,
        }


@dataclass(frozen=True)
class NormalizePlan:
    """`saved` is what the disk regains at once: joined bytes have no copy in the trash."""

    request: NormalizeRequest
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()

    @property
    def saved(self) -> int:
        return sum(group.saved for group in self.groups)

    @property
    def work(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.operations and not group.skipped)

    def to_json(self) -> dict[str, Any]:
        return {
            "to": self.request.to,
            "across": self.request.across,
            "store": self.request.store,
            "groups": [group.to_json() for group in self.groups],
            "saved": self.saved,
            "notes": list(self.notes),
        }


class CannotNormalize(Exception):
    """This repository cannot be normalized now; the text says why."""


class FolderReader:
    """The root as read once for a plan, or again under locks."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.marked = store_is_marked(root)

    def read(self, names: Sequence[str]) -> list[Folder]:
        return [scan_folder(self.root, name, marked=self.marked) for name in names]


def plan_normalize(
    cache: "Cache", request: NormalizeRequest, canonical: Canonical
) -> NormalizePlan:
    """What normalizing would do; content is not compared yet, and nothing is changed."""
    root = os.fspath(cache.root)
    view = FolderReader(root)
    if not os.path.lexists(root):
        return NormalizePlan(request, (), (f"{root} is not there: nothing to do.",))
    notes: tuple[str, ...] = ()
    if _ignores_case(root):
        notes = ("This disk does not tell casings apart: every casing finds the one folder.",)
        if not (request.across or request.store):
            return NormalizePlan(request, (), notes)
        request = replace(request, to="shared")  # a folder cannot be folded into itself
    groups = []
    for names in _by_repo(cache, request).values():
        folders = view.read(names)
        group = _describe(root, folders, request, canonical)
        if group is not None:
            groups.append(group)
    if request.across:
        groups += _across_group(view, cache, request)
    return NormalizePlan(request, tuple(groups), notes)


def _by_repo(cache: "Cache", request: NormalizeRequest) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for summary in cache.survey().summaries:
        parsed = parse_folder(summary.name)
        key = repo_key(*parsed) if parsed else ""
        if parsed and request.covers(key):
            groups.setdefault(key, []).append(summary.name)
    return groups


def _describe(
    root: str, folders: Sequence[Folder], request: NormalizeRequest, canonical: Canonical
) -> Group | None:
    real = ordered(folders)
    if not real:
        return None
    target = None
    skipped = ""
    draft = Draft("")
    try:
        target = _target(real, request, canonical)
        compose(root, draft, folders, request, target, compare=False)
    except CannotNormalize as refused:
        skipped = str(refused)
    if not draft.ops and not skipped:
        return None
    names = tuple(folder.name for folder in folders)
    if target is not None and (name := folder_name(target, real[0].repo_type)) not in names:
        names = (*names, name)
    return Group(
        target or real[0].repo_id,
        real[0].repo_type,
        tuple(folder.repo_id for folder in folders),
        target,
        names,
        len(draft.ops),
        0 if skipped else draft.saved,
        skipped,
    )


def ordered(folders: Sequence[Folder]) -> list[Folder]:
    """The real folders, likeliest spelling first."""
    real = [folder for folder in folders if folder.alias_of is None]
    return sorted(real, key=lambda folder: spelling_rank(folder.repo_id))


def _target(real: Sequence[Folder], request: NormalizeRequest, canonical: Canonical) -> str | None:
    """The spelling to fold into, `None` for sharing.

    Raises:
        Refused: nobody knows the Hub's spelling.
    """
    if request.to == "shared":
        return None
    if request.to == "lower":
        return real[0].repo_id.lower()
    spelling = canonical(real[0].repo_type, real[0].repo_id)
    if spelling is None or spelling.casefold() != real[0].repo_id.casefold():
        raise CannotNormalize(
            "the Hub's spelling is not known: the Hub did not say it, or was not reached"
        )
    return spelling


def compose(
    root: str,
    draft: Draft,
    folders: Sequence[Folder],
    request: NormalizeRequest,
    target: str | None,
    *,
    compare: bool,
) -> None:
    """Fill a draft with one repository's operations.

    Raises:
        Refused: it cannot be done to this repository.
    """
    real = ordered(folders)
    for folder in real:
        if not folder.readable:
            raise CannotNormalize(f"{folder.name} cannot be read whole")
    extras = {folder.name: read_extras(root, folder) for folder in real}
    join(root, draft, duplicate_blobs(root, real), real, compare=compare)
    if target is None:
        for taker_of in real:
            taker = Taker(root, taker_of.name, taker_of, extras[taker_of.name])
            for giver in real:
                if giver is not taker_of:
                    taker.take(draft, giver, extras[giver.name], everything=False)
    else:
        _fold(root, draft, folders, extras, target)
    if request.store:
        store_blobs(root, draft, real, compare=compare)


def join(
    root: str, draft: Draft, pairs: Sequence[Pair], real: Sequence[Folder], *, compare: bool
) -> None:
    if compare:
        for pair in pairs:
            if not same_content(pair.keep, pair.path):
                raise CannotNormalize(
                    f"{os.path.relpath(pair.path, root)} differs from its twin although both have "
                    "one name: run `mdl cache verify`"
                )
    links = {
        os.path.join(root, folder.name, "blobs", blob.name): blob.links
        for folder in real
        for blob in folder.blobs.values()
    }
    share(draft, pairs, links)


def _fold(
    root: str,
    draft: Draft,
    folders: Sequence[Folder],
    extras: Mapping[str, Extras],
    target: str,
) -> None:
    real = ordered(folders)
    name = folder_name(target, real[0].repo_type)
    there = next((folder for folder in folders if folder.name == name), None)
    givers = [folder for folder in real if folder.name != name]
    if there is not None and there.alias_of is not None:
        draft.blobs.append(
            {"op": "move", "from": os.path.join(root, name),
             "to": os.path.join(draft.staging, f"alias-{name}")}
        )  # fmt: skip
        there = None
    taker = Taker(root, name, there, extras.get(name, NO_EXTRAS))
    for giver in givers:
        taker.take(draft, giver, extras[giver.name], everything=True)
    for giver in givers:
        swap_for_link(draft, root, giver.name, name)
    for alias in folders:
        if alias.alias_of not in (None, name) and alias.name != name:
            _redirect(root, draft, alias.name, name)


def _redirect(root: str, draft: Draft, alias: str, name: str) -> None:
    """An alias of an alias would dangle one day: lead it to the folder itself."""
    path = os.path.join(root, alias)
    draft.swaps.append(
        {"op": "move", "from": path, "to": os.path.join(draft.staging, f"alias-{alias}")}
    )
    draft.swaps.append({"op": "symlink", "text": name, "path": path})


def read_extras(root: str, folder: Folder) -> Extras:
    """What normalizing needs to know beyond the facts; nothing for an alias."""
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


def _across_group(view: FolderReader, cache: "Cache", request: NormalizeRequest) -> list[Group]:
    folders = ordered(view.read([summary.name for summary in cache.survey().summaries]))
    draft = Draft("")
    pairs = across_pairs(view.root, folders, request)
    join(view.root, draft, pairs, folders, compare=False)
    names = sorted({os.path.relpath(path, view.root).split(os.sep)[0]
                    for pair in pairs for path in pair[:2]})  # fmt: skip
    if not pairs:
        return []
    return [Group("(across repositories)", "", (), None, tuple(names), len(draft.ops), draft.saved)]


def across_pairs(root: str, folders: Sequence[Folder], request: NormalizeRequest) -> list[Pair]:
    """Equal sha256 blobs of different repositories; git's names are only for small files."""
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
    """Is an entry also found by a spelling that is not listed?

    Inode numbers would not tell: some of these disks make up another for every spelling.
    """
    try:
        listed = set(os.listdir(root))
    except OSError:
        return False
    swapped = next((n.swapcase() for n in listed if n.swapcase() not in (n, *listed)), None)
    return swapped is not None and os.path.lexists(os.path.join(root, swapped))


def hub_spelling(cache: "Cache") -> Canonical:
    """Ask what is known, then the Hub (never when offline), and remember what it says."""
    known = cache.index.canonical()
    silent = cache.settings.offline

    def ask(repo_type: str, repo_id: str) -> str | None:
        nonlocal silent
        key = repo_key(repo_type, repo_id)
        if key in known or silent:
            return known.get(key)
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            api = HfApi(endpoint=cache.settings.endpoint, token=cache.settings.token or False)
            info = api.repo_info(repo_id, repo_type=repo_type, timeout=cache.settings.hub_timeout)
        except (HfHubHTTPError, ValueError):
            return None
        except (OfflineModeIsEnabled, http_library().TransportError, OSError):
            silent = True  # asked once: the others would wait as long for nothing
            return None
        cache.index.put_canonical(key, info.id)
        known[key] = info.id
        return str(info.id)

    return ask
