"""What a treemap shows of the cache: types, owners, repositories, revisions and files."""

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mdl.cachemgr.types import CachedRepo, Totals
from mdl.formatting import counted

# The largest owners and repositories of a view are tiles, the others together are one. Below a
# thousandth of the view, a repository is too small to be seen.
MOST_TILES = 160
_LEAST_SHARE = 1 / 1000
OTHER = "other"  # the kind of a tile that is no single repository


class Tile(NamedTuple):
    """One rectangle.

    Attributes:
        size: bytes on disk.
        kind: the type of its repository, or `OTHER`.
        used: when it was last used, in seconds since 1970.
        at: where it leads: a type, an owner, a repository, a commit, each below the one before.
        note: what else is worth saying of it.
        inside: what it consists of.
    """

    label: str
    size: int
    kind: str
    used: float | None = None
    at: tuple[str, ...] | None = None
    note: str = ""
    inside: tuple["Tile", ...] = ()


def owner_of(repo: CachedRepo) -> str:
    owner, slash, _ = repo.repo_id.partition("/")
    return owner if slash else ""


def place_of(repo: CachedRepo) -> tuple[str, str, str]:
    return repo.repo_type, owner_of(repo), repo.repo_id


def repo_tiles(
    repos: Sequence[CachedRepo], at: tuple[str, ...] = (), totals: Totals | None = None
) -> list[Tile]:
    """The tiles below a type or an owner, or below nothing; a level with one entry is skipped.

    Args:
        repos: those below `at`.
        totals: adds tiles for the rest of the cache root.
    """
    least = sum(repo.size_on_disk for repo in repos) * _LEAST_SHARE
    visible = [repo for repo in repos if repo.size_on_disk >= least]
    large = heapq.nlargest(MOST_TILES, visible, key=lambda repo: repo.size_on_disk)
    tiles = _below(repos, at, frozenset(map(place_of, large)))
    while len(tiles) == 1 and tiles[0].inside:
        at, tiles = tiles[0].at or at, list(tiles[0].inside)
    tiles = [tile._replace(at=None) if tile.at == at else tile for tile in tiles]
    if totals is not None:
        tiles.append(Tile("trash", totals.trash_size, OTHER, note="what was removed"))
        tiles.append(Tile("xet", totals.xet_size, OTHER, note="huggingface_hub's chunk cache"))
    return [tile for tile in tiles if tile.size > 0]


def _below(
    repos: Sequence[CachedRepo], at: tuple[str, ...], large: frozenset[tuple[str, str, str]]
) -> list[Tile]:
    level = len(at)
    if level == 2:
        shown = [repo for repo in repos if place_of(repo) in large]
        tiles = [_of_repo(repo, repo.repo_id.rpartition("/")[2]) for repo in shown]
        return [*tiles, *_rest([repo for repo in repos if place_of(repo) not in large], at)]
    groups: dict[str, list[CachedRepo]] = {}
    for repo in repos:
        groups.setdefault(place_of(repo)[level], []).append(repo)
    order = sorted(groups, key=lambda key: -sum(repo.size_on_disk for repo in groups[key]))
    tiles = [
        _of_repo(groups[key][0], groups[key][0].repo_id)
        if level == 1 and len(groups[key]) == 1
        else _group(key, groups[key], at, large)
        for key in order[:MOST_TILES]
    ]
    return [*tiles, *_rest([repo for key in order[MOST_TILES:] for repo in groups[key]], at)]


def _group(
    key: str, repos: list[CachedRepo], at: tuple[str, ...], large: frozenset[tuple[str, str, str]]
) -> Tile:
    below = (*at, key)
    label = f"{key}s" if not at else key or "(no owner)"
    used = max(repo.last_used or 0.0 for repo in repos) or None
    note = counted(len(repos), "repository")
    size = sum(repo.size_on_disk for repo in repos)
    seen = not at or any(place_of(repo) in large for repo in repos)
    inside = tuple(_below(repos, below, large)) if seen else ()
    return Tile(label, size, repos[0].repo_type, used, below, note, inside)


def _of_repo(repo: CachedRepo, label: str) -> Tile:
    notes = [repo.state] if repo.state != "complete" else []
    notes += ["pinned"] if repo.pinned else []
    return Tile(
        label, repo.size_on_disk, repo.repo_type, repo.last_used, place_of(repo), ", ".join(notes)
    )


def _rest(repos: list[CachedRepo], at: tuple[str, ...]) -> list[Tile]:
    if not repos:
        return []
    size = sum(repo.size_on_disk for repo in repos)
    return [Tile(f"{len(repos):,} smaller ones", size, OTHER, None, at)]


def file_tiles(details: Mapping[str, Any], at: tuple[str, ...]) -> list[Tile]:
    """The revisions of one repository with their files, or the files of one revision.

    A file that several revisions have is drawn in the newest one alone: it is on disk once.

    Args:
        details: from `describe`.
        at: a type, an owner and a repository, with or without a commit.
    """
    seen: set[str] = set()
    tiles = []
    for revision in sorted(details["revisions"], key=lambda each: -each["last_modified"]):
        wanted = len(at) < 4 or revision["commit"] == at[3]
        used = revision["last_used"] or details["last_used"]
        files = []
        for file in revision["files"] if wanted else ():
            if file["size"] and file["blob"] not in seen:
                seen.add(file["blob"])
                tile = Tile(file["path"], file["size"], details["repo_type"], used)
                files.append(tile._replace(note=file["state"]))
        if len(at) == 4:
            tiles += files
            continue
        label = f"{revision['commit'][:7]} {' '.join(revision['refs'])}".strip()
        shared = revision["files_total"] - len(files)
        note = f"{counted(shared, 'file')} shared with a newer revision" if seen and shared else ""
        size = sum(file.size for file in files)
        below = (*at, revision["commit"])
        tiles.append(Tile(label, size, details["repo_type"], used, below, note, tuple(files)))
    return tiles
