"""`mdl cache ls --tree`: owners, their repositories, the revisions, and what is in these."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mdl.cachemgr import Cache, CachedRepo
from mdl.cachemgr.index import Row, describe
from mdl.formatting import branches, counted, human_ago, human_size, table

_LEAVES_FOR = 50  # repositories whose files are read and shown
_FILES = 5  # shown of a revision
_HEADER = ("NAME", "SIZE", "FORMAT", "LAST USED", "STATE")


class _Line(NamedTuple):
    depth: int
    name: str
    size: int | None
    format: str = ""
    used: str = ""
    state: str = ""


def tree_lines(cache: Cache, rows: Sequence[Row], *, revisions: bool) -> list[str]:
    """Draw the rows of a listing as a tree; with `revisions` only those of the rows.

    Of more than a few repositories the files are left out: they would have to be read.
    """
    leaves = len({id(row.repo) for row in rows}) <= _LEAVES_FOR
    lines = list(_owners(cache, rows, revisions=revisions, leaves=leaves))
    names = [before + line.name for before, line in
             zip(branches([line.depth for line in lines]), lines, strict=True)]  # fmt: skip
    cells = [(name, human_size(line.size), line.format, line.used, line.state)
             for name, line in zip(names, lines, strict=True)]  # fmt: skip
    drawn = table(_HEADER, cells, right=("SIZE",), spare=("FORMAT", "LAST USED")).split("\n")
    if not leaves:
        drawn += ["", f"Files are shown of at most {_LEAVES_FOR} repositories: choose with -f."]
    return drawn


def _owners(cache: Cache, rows: Sequence[Row], *, revisions: bool, leaves: bool) -> Iterator[_Line]:
    owned: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        owner, slash, _ = row.repo.repo_id.partition("/")
        owned.setdefault(owner if slash else "", {}).setdefault(id(row.repo), []).append(row)
    now = time.time()
    for owner, repos in owned.items():
        if owner:
            size = sum(each[0].repo.size_on_disk for each in repos.values())
            yield _Line(0, f"{owner} ({counted(len(repos), 'repository')})", size)
        for each in repos.values():
            repo = each[0].repo
            kind = "" if repo.repo_type == "model" else f"{repo.repo_type}: "
            used = human_ago(repo.last_used, now)
            state = repo.state if repo.state != "complete" else ""
            formats = ", ".join(repo.formats)
            name = kind + repo.repo_id.rpartition("/")[2]
            depth = 1 if owner else 0
            yield _Line(depth, name, repo.size_on_disk, formats, used, state)
            shown = {row.revision.commit for row in each if row.revision} if revisions else None
            yield from _revisions(cache, repo, shown, depth + 1, leaves=leaves)


def _revisions(
    cache: Cache, repo: CachedRepo, shown: set[str] | None, depth: int, *, leaves: bool
) -> Iterator[_Line]:
    details = {}
    if leaves:
        described = describe(cache.root, repo, cache.folders_of(repo.repo_id, repo.repo_type))
        details = {(each["spelling"], each["commit"]): each for each in described["revisions"]}
    for revision in repo.revisions:
        if shown is not None and revision.commit not in shown:
            continue
        state = revision.state if revision.state != "complete" else ""
        name = " ".join([revision.commit[:12], *revision.refs])
        yield _Line(depth, name, revision.size, state=state)
        found = details.get((revision.spelling, revision.commit))
        if found is not None:
            yield from _parts(found, depth + 1)


def _parts(revision: dict[str, Any], depth: int) -> Iterator[_Line]:
    """The variants of a revision, and its largest other files."""
    variants = revision["variants"]
    for variant in variants:
        named = f":{variant['variant']}" if variant["variant"] else ""
        yield _Line(depth, f"{variant['format']}{named}", variant["size"])
    in_variants = {path for variant in variants for path in variant["files"]}
    others = [file for file in revision["files"] if file["path"] not in in_variants]
    others.sort(key=lambda file: -(file["size"] or 0))
    for file in others[:_FILES]:
        yield _Line(depth, file["path"], file["size"], state=file["state"])
    if len(others) > _FILES:
        rest = others[_FILES:]
        size = sum(file["size"] or 0 for file in rest)
        yield _Line(depth, f"and {counted(len(rest), 'other')}", size)
