"""Find what `rm` is asked to remove: exactly one repository, revision or file, or an error.

    org/name                     the repository, every casing of it
    org/name@main, org/name@<commit or its first characters>
    org/name:path/to/file        a file in every revision; with @revision only in that one
    org/name:Q4_K_M              the files of that variant, in any casing, if no file is called so
    <commit, 7 or more characters>

A type in front (`dataset/org/name`) distinguishes repositories of the same name. Where several
casings are separate folders on disk, only the one that is spelled exactly so is meant; a casing
that none of them has is refused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mdl.cachemgr.index import Summary
from mdl.cachemgr.layout import (
    COMMIT_LENGTH,
    SHORTEST_COMMIT,
    is_hash,
    names_commit,
    parse_folder,
    repo_key,
    split_name,
)
from mdl.cachemgr.remove.operations import Removal
from mdl.cachemgr.scan import Folder, Snapshot
from mdl.errors import NotFoundError, UsageError


@dataclass(frozen=True)
class Target:
    """What was written; `repo_type` is `None`, `revision` and `path` are `''` where left out."""

    repo_type: str | None
    repo_id: str
    revision: str = ""
    path: str = ""


def parse_target(text: str, repo_type: str | None = None) -> Target:
    """Parse a target as written.

    Raises:
        UsageError: it is empty, or nothing follows its `@` or `:`.
    """
    name, colon, path = text.partition(":")
    name, at, revision = name.partition("@")
    # As from a script whose variable is empty: never the whole in place of a part.
    for mark, part, what in ((at, revision, "revision"), (colon, path, "file or variant")):
        if mark and not part:
            raise UsageError(
                f"{text!r} has no {what} after its `{mark}`.",
                next=f"Write one, or leave the `{mark}` out to mean all of {name}.",
            )
    repo_type, repo_id = split_name(name, repo_type)
    if not repo_id:
        raise UsageError(
            f"{text!r} names nothing.", next="Write org/name, org/name@revision or a commit."
        )
    return Target(repo_type, repo_id, revision, path)


def may_mean(summary: Summary, text: str) -> bool:
    """Could a target mean this folder? The others need not be read."""
    target = parse_target(text)
    parsed = parse_folder(summary.name)
    if parsed is not None and parsed[1].casefold() == target.repo_id.casefold():
        return True
    return _is_commit(target) and any(
        str(revision[0]).startswith(target.repo_id) for revision in summary.revisions
    )


def find_target(
    folders: Sequence[Folder], text: str, repo_type: str | None = None, *, casings: bool = False
) -> dict[str, Removal]:
    """What a target means in this cache, by folder.

    Args:
        folders: those it may mean, as they are now, without aliases.
        casings: take every casing of the repository.

    Raises:
        NotFoundError: it matches nothing.
        UsageError: it is ambiguous.
    """
    target = parse_target(text, repo_type)
    if _is_commit(target):
        return _by_commit(folders, target.repo_id, text)
    keys = {
        repo_key(folder.repo_type, folder.repo_id)
        for folder in folders
        if folder.repo_id.casefold() == target.repo_id.casefold()
        and target.repo_type in (None, folder.repo_type)
    }
    if not keys:
        raise NotFoundError(f"{text} is not in this cache.", next="`mdl cache ls` lists what is.")
    if len(keys) > 1:
        raise UsageError(f"{text} is ambiguous.", next=f"Write one of {_all(keys)}.")
    (key,) = keys
    members = [folder for folder in folders if repo_key(folder.repo_type, folder.repo_id) == key]
    if len(members) > 1 and not casings:
        members = _spelled(members, target.repo_id)
    commit = _resolve(members, target.revision, text) if target.revision else None
    if target.path:
        return _of_file(members, commit, target.path, text)
    if commit is not None:
        return _of_commit(members, commit)
    return {folder.name: _everything(folder) for folder in members}


def _spelled(members: Sequence[Folder], repo_id: str) -> list[Folder]:
    exact = [folder for folder in members if folder.repo_id == repo_id]
    if not exact:
        spellings = _all(folder.repo_id for folder in members)
        raise UsageError(
            f"{repo_id} is in the cache in several casings, but not in this one.",
            next=f"Write one of {spellings}, or add --all-casings.",
        )
    return exact


def _is_commit(target: Target) -> bool:
    text = target.repo_id
    return (
        target.repo_type is None
        and not target.revision
        and not target.path
        and SHORTEST_COMMIT <= len(text) <= COMMIT_LENGTH
        and is_hash(text, len(text))
    )


def _by_commit(folders: Sequence[Folder], commit: str, text: str) -> dict[str, Removal]:
    found = {
        (repo_key(folder.repo_type, folder.repo_id), snapshot.commit)
        for folder in folders
        for snapshot in folder.snapshots
        if snapshot.commit.startswith(commit)
    }
    if not found:
        raise NotFoundError(
            f"No revision in this cache begins with {text}.",
            next="`mdl cache show NAME` lists them.",
        )
    if len(found) > 1:
        choices = _all(f"{key}@{full[:12]}" for key, full in found)
        raise UsageError(f"Several revisions begin with {text}.", next=f"Write one of {choices}.")
    ((key, full),) = found
    members = [folder for folder in folders if repo_key(folder.repo_type, folder.repo_id) == key]
    return _of_commit(members, full)


def _resolve(members: Sequence[Folder], revision: str, text: str) -> str:
    """The commit behind a ref or a commit's first characters, the same in every casing."""
    commits = {folder.refs[revision] for folder in members if revision in folder.refs}
    if not commits:
        commits = {
            snapshot.commit
            for folder in members
            for snapshot in folder.snapshots
            if names_commit(revision, snapshot.commit)
        }
    if not commits:
        raise NotFoundError(
            f"{text}: there is no such revision in this cache.",
            next=f"`mdl cache show {members[0].repo_id}` lists them.",
        )
    if len(commits) > 1:
        raise UsageError(
            f"{text} matches several revisions.",
            next=f"Write a full commit: {_all(commits)}.",
        )
    return commits.pop()


def _of_commit(members: Sequence[Folder], commit: str) -> dict[str, Removal]:
    return {
        folder.name: Removal(frozenset([commit]))
        for folder in members
        if any(snapshot.commit == commit for snapshot in folder.snapshots)
    }


def _of_file(
    members: Sequence[Folder], commit: str | None, path: str, text: str
) -> dict[str, Removal]:
    found = _matching(members, commit, lambda snapshot: {path})
    found = found or _matching(members, commit, lambda snapshot: _files_of(snapshot, path))
    if not found:
        raise NotFoundError(
            f"{text}: no revision in this cache has the file or variant {path!r}.",
            next=f"`mdl cache show {members[0].repo_id}` lists the files.",
        )
    return found


def _matching(
    members: Sequence[Folder], commit: str | None, wanted: Callable[[Snapshot], set[str]]
) -> dict[str, Removal]:
    """The files that are wanted of each snapshot, by folder; folders without any are left out."""
    found = {}
    for folder in members:
        files = set()
        for snapshot in folder.snapshots:
            if commit in (None, snapshot.commit):
                paths = wanted(snapshot)
                files |= {(snapshot.commit, p.path) for p in snapshot.pointers if p.path in paths}
        if files:
            found[folder.name] = Removal(files=frozenset(files))
    return found


def _files_of(snapshot: Snapshot, variant: str) -> set[str]:
    """The files of a snapshot's variant; what all variants share is not among them."""
    from mdl.formats import Description, File, recognize

    files = tuple(File(pointer.path) for pointer in snapshot.pointers)
    format = recognize(Description(files=files))
    for each in (format, *format.others):
        found = each.variant(variant)
        if found is not None:
            return {file.path for file in found.files}
    return set()


def _everything(folder: Folder) -> Removal:
    names = {name for name in folder.blobs if not name.startswith("snapshots/")}
    names |= {part.name for part in folder.incomplete}
    commits = frozenset(snapshot.commit for snapshot in folder.snapshots)
    return Removal(commits, names=frozenset(names), whole=True)


def _all(choices: Iterable[str]) -> str:
    return ", ".join(sorted(choices))
