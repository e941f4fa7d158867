"""Lock files: what names resolve to, down to commits and file hashes, so that it stays so.

The file is TOML with one table a name, keys and files in a fixed order: it diffs well in git.
"""

import contextlib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl.errors import (
    DiskError,
    NameRefusedError,
    NotFoundError,
    OfflineError,
    UsageError,
    VerificationError,
)
from mdl.formats import File, variant_key
from mdl.resolver.names import is_commit, parse_name, shown
from mdl.resolver.stored import with_cached_files
from mdl.resolver.types import CacheView, Resolution, ResolveOptions, TraceStep
from mdl.version import __version__

if TYPE_CHECKING:
    from mdl.resolver.resolver import Resolver

_FORMAT = 1
_FIELDS = (
    "requested", "format", "canonical", "repo_id", "commit", "upstream_commit", "substituted",
    "quantize_on_load", "source", "catalogue", "gated",
)  # fmt: skip
# What identifies a file's content on the Hub: sha256 for LFS, git's blob sha1 for small ones.
Hash = str
_HASH = re.compile(r"sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40}")


@dataclass(frozen=True)
class LockEntry:
    """One locked name.

    `files` maps a path to `sha256:…` or `sha1:…` (git blob), as the Hub names its content.
    `upstream` is the repository that was named and its commit, where a substitute was taken.
    """

    requested: str
    format: str
    canonical: str
    repo_id: str
    commit: str
    substituted: bool
    quantize_on_load: bool
    source: str
    catalogue: str
    gated: bool | str | None
    upstream_commit: str | None
    files: Mapping[str, Hash]

    @property
    def key(self) -> tuple[str, str]:
        """What a lock file has one entry for: a name and a format."""
        return self.requested.lower(), self.format


def lock_entry(resolver: "Resolver", resolution: Resolution) -> LockEntry:
    """Lock a resolution: its commit, the named repository's commit, every file's hash.

    Raises:
        UsageError: it is a folder, which has no commit.
        OfflineError: the Hub does not respond.
    """
    if resolution.is_local:
        raise UsageError(
            f"{resolution.requested} is a folder: there is no commit to lock.",
            next="Lock the repository it came from.",
        )
    if not resolver.online or resolution.commit is None:
        raise OfflineError(
            f"{resolution.requested} cannot be locked offline.",
            why="the commit and the files' hashes come from the Hub",
            next="Lock it online; the lock file then works offline.",
        )
    upstream = None
    if resolution.repo_id.lower() != resolution.canonical.lower():
        facts = resolver.hub.facts(resolution.canonical)
        upstream = facts.commit if facts.state == "ok" else None
    files = resolver.hub.file_hashes(resolution.repo_id, resolution.commit)
    if resolution.files is not None:
        files = {file.path: files[file.path] for file in resolution.files if file.path in files}
    return LockEntry(
        requested=resolution.requested,
        format=resolution.label,
        canonical=resolution.canonical,
        repo_id=resolution.repo_id,
        commit=resolution.commit,
        substituted=resolution.substituted,
        quantize_on_load=resolution.quantize_on_load,
        source=resolution.source,
        catalogue=resolution.source_version or "",
        gated=resolution.gated,
        upstream_commit=upstream,
        files=files,
    )


def write_lock(path: Path, entries: Iterable[LockEntry]) -> None:
    """Write a lock file atomically: a reader sees the old one or the new one.

    Raises:
        DiskError: no space or no permission; an old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(lock_text(entries), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise DiskError(
            f"The lock file {path} cannot be written.",
            why=error.strerror or str(error),
            next="Give a file in an existing folder that you may write to.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def lock_text(entries: Iterable[LockEntry]) -> str:
    """The TOML text, entries sorted by name and format."""
    parts = [
        "# Written by `mdl lock`, checked by `--locked` and `mdl verify`.\n"
        f"version = {_FORMAT}\nmdl = {_quoted(__version__)}\n"
    ]
    for entry in sorted(entries, key=lambda entry: entry.key):
        lines = ["\n[[model]]"]
        for field in _FIELDS:
            value = getattr(entry, field)
            if value is not None:
                lines.append(f"{field} = {_quoted(value)}")
        lines.append("[model.files]")
        lines += [f"{_quoted(p)} = {_quoted(h)}" for p, h in sorted(entry.files.items())]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def _quoted(value: Any) -> str:
    """A value as TOML: as JSON, without surrogate pairs and bare DEL characters."""
    import json

    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_lock(path: Path) -> list[LockEntry]:
    """Read a lock file.

    Raises:
        NotFoundError: it does not exist.
        UsageError: it is not a lock file, or of a newer version.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFoundError(
            f"The lock file {path} cannot be read.",
            why=str(error),
            next="`mdl lock NAME -o FILE` writes one.",
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError: the parser's own
        raise UsageError(
            f"{path} is not a lock file.",
            why=str(error),
            next="Give a file that `mdl lock` wrote, or write it again.",
        ) from error
    if content.get("version") != _FORMAT:
        raise UsageError(
            f"{path} is not a lock file of version {_FORMAT}.",
            why=f"its version is {content.get('version')!r}",
            next="Write it again with `mdl lock`, or upgrade mdl.",
        )
    try:
        return [_entry(table) for table in content.get("model", [])]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"{path} has an entry that cannot be used.",
            why=why,
            next="Write it again with `mdl lock`; nothing was done.",
        ) from error


def resolve_locked(
    resolver: "Resolver", path: str, name: str, options: ResolveOptions
) -> Resolution:
    """Resolve a name as locked; online, the Hub must still have exactly these files.

    Raises:
        NotFoundError: the lock file does not exist, or the name is not in it.
        UsageError: the name ends in a variant, and the options ask for another.
        VerificationError: it is locked in another format, or the Hub now has something else.
        OfflineError: the Hub does not respond.
    """
    entries = read_lock(Path(path))
    asked, options = resolver.asked(name, options)
    entry = _find_entry(entries, asked.text, options, path)
    resolution = _resolution_of(entry, path, resolver.cached)
    if resolver.online and not (resolution.cached is not None and resolution.cached.complete):
        _check_against_hub(resolver, entry)
    return resolution


def _find_entry(
    entries: Iterable[LockEntry], name: str, options: ResolveOptions, where: str
) -> LockEntry:
    """The entry for a name and a format.

    Raises:
        NotFoundError: the lock has no such entry.
        VerificationError: the name is locked, but in another format or at another revision.
    """
    of_name = [e for e in entries if name.lower() in (e.requested.lower(), e.canonical.lower())]
    for entry in of_name:
        if _is_asked_for(entry.format, options):
            if options.revision not in (None, entry.commit):
                raise VerificationError(
                    f"{name} is locked in {where} at {entry.commit}, not at {options.revision!r}.",
                    next="Leave out the revision, or lock that one.",
                )
            return entry
    asked = ":".join(filter(None, (options.label, options.variant)))
    if options.variant is not None and options.format == "16bit":  # given after the name
        asked = options.variant
    if of_name:
        locked = " and ".join(entry.format for entry in of_name)
        raise VerificationError(
            f"{name} is locked in {where} as {locked}, not as {asked}.",
            next=f"Ask for {of_name[0].format}, or lock it again.",
        )
    how = name
    if asked == options.variant:
        how += f":{asked}"
    elif options.is_stored:
        how += f" --format {asked}"
    raise NotFoundError(
        f"{name} is not in {where}.", next=f"Add it: mdl lock {how} -o {where} --add."
    )


def _is_asked_for(locked: str, options: ResolveOptions) -> bool:
    """Whether an entry's format is the one asked for; any variant, where none is named."""
    format, _, variant = locked.partition(":")
    if not variant or not options.is_stored:
        return locked == options.label and options.variant is None
    same = options.variant is None or variant_key(options.variant) == variant_key(variant)
    return same and options.format in (format, "16bit")


def _locked_files(entry: LockEntry, variant: str) -> tuple[File, ...] | None:
    """The files of a locked variant, the one to open first; `None` for a whole repository."""
    if not variant or not any(path.lower().endswith(".gguf") for path in entry.files):
        return None
    order = sorted(entry.files, key=lambda path: ("mmproj" in path.lower(), path))
    return tuple(File(path) for path in order)


def _resolution_of(entry: LockEntry, path: str, cached: CacheView) -> Resolution:
    """The resolution that an entry stands for, without Hub or catalogue."""
    format, _, variant = entry.format.partition(":")
    resolution = Resolution(
        requested=entry.requested,
        canonical=entry.canonical,
        repo_id=entry.repo_id,
        revision=entry.commit,
        commit=entry.commit,
        format=format,
        variant=variant or None,
        files=_locked_files(entry, variant),
        substituted=entry.substituted,
        quantize_on_load=entry.quantize_on_load,
        gated=entry.gated,
        access="open" if entry.gated is False else "unknown",
        source=entry.source,
        source_version=entry.catalogue or None,
        rule="locked",
        trace=(TraceStep(entry.repo_id, "accepted", f"{path} pins it to {entry.commit[:12]}"),),
        alternatives=(),
        cached=cached(entry.repo_id, entry.commit),
        weights="16bit" if entry.quantize_on_load else format,
    )
    return with_cached_files(resolution)


def _check_against_hub(resolver: "Resolver", entry: LockEntry) -> None:
    """Check that the Hub still has the locked commit with the same files.

    Raises:
        VerificationError: it does not; the error says what differs.
        OfflineError: the Hub does not respond.
    """
    facts = resolver.hub.facts(entry.repo_id, entry.commit)
    if facts.state != "ok":
        raise VerificationError(
            f"{entry.repo_id} no longer has the locked commit {entry.commit}.",
            why=facts.message,
            next="If it is in your cache it still loads with --offline; otherwise lock again.",
        )
    if facts.repo_id.lower() != entry.repo_id.lower():
        raise VerificationError(
            f"{entry.repo_id} is now {facts.repo_id}.",
            why="the Hub redirects the locked name",
            next="Look at it, then lock again.",
        )
    files = resolver.hub.file_hashes(entry.repo_id, entry.commit)
    # A variant's entry names its own files alone.
    paths = entry.files if ":" in entry.format else {*files, *entry.files}
    differing = sorted(p for p in paths if files.get(p) != entry.files.get(p))
    if differing:
        raise VerificationError(
            f"{entry.repo_id} at {entry.commit} is not what was locked.",
            why=f"differing files: {', '.join(differing[:5])}",
            next="Find out why before you load it.",
        )


def _entry(table: Mapping[str, Any]) -> LockEntry:
    """One table of the file as an entry; refuses what cannot have come from the Hub.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is not an entry.
    """
    files = {str(path): str(digest) for path, digest in table["files"].items()}
    for path, digest in files.items():
        if path.startswith("/") or ".." in path.split("/") or not _HASH.fullmatch(digest):
            raise ValueError(f"{shown(path)} = {shown(digest)} is not a file of a repository")
    commit = str(table["commit"])
    if not is_commit(commit):
        raise ValueError(f"{shown(commit)} is not a commit hash")
    try:
        names = {f: parse_name(str(table[f]), allow_local=False).text
                 for f in ("requested", "canonical", "repo_id")}  # fmt: skip
    except NameRefusedError as error:
        raise ValueError(error.message) from error
    return LockEntry(
        **names,
        format=str(table["format"]),
        commit=commit,
        substituted=bool(table["substituted"]),
        quantize_on_load=bool(table["quantize_on_load"]),
        source=str(table["source"]),
        catalogue=str(table.get("catalogue", "")),
        gated=table.get("gated"),
        upstream_commit=table.get("upstream_commit"),
        files=files,
    )
