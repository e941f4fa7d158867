"""What a run really opened, as one value with one JSON form."""

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mdl.errors import DiskError, UsageError
from mdl.formatting import human_size
from mdl.version import __version__

# In the summary, so many of a model's files are named, and of the reasons for gaps.
_NAMED = 2
MET, UNMET, UNSURE = "met", "unmet", "unsure"


class OpenedFile(NamedTuple):
    """A file that was opened. `hash` is its blob's name in the cache: a SHA-256, or git's blob
    SHA-1 for a small file; `None` outside a cache.
    """

    path: str
    size: int
    hash: str | None
    first_opened: float
    seen_by: tuple[str, ...]


class KnownMirror(NamedTuple):
    """What the catalogue says of a repository: a mirror of `name`, and by whose word."""

    name: str
    format: str
    variant: str
    relation: str
    source: str
    source_version: str | None


class Load(NamedTuple):
    """A repository of which files were opened.

    Attributes:
        repo_id: in the Hub's spelling where it is known; `spelling` is that of the run.
        commit: `None` where no snapshot names the files any more.
        same_in: commits that have the same files; which of them it was makes no difference.
        format: of the weights, by their files and config.json; `None` if unrecognised.
        weights: whether weights were opened, or only what goes with them.
        bytes: size of the opened files.
        first_opened: seconds since 1970.
        process: `{pid, command}` that opened the first file; `None` where it was not seen.
        gated: `False`, `"auto"`, `"manual"`, or `None` for unknown.
    """

    repo_id: str
    repo_type: str
    commit: str | None
    spelling: str
    path: str
    same_in: tuple[str, ...]
    refs: tuple[str, ...]
    format: str | None
    weights: bool
    files: tuple[OpenedFile, ...]
    bytes: int
    first_opened: float
    process: Mapping[str, Any] | None
    gated: bool | str | None
    mirror_of: tuple[KnownMirror, ...]

    @property
    def name(self) -> str:
        return self.repo_id


class FolderLoad(NamedTuple):
    """A folder with a model, outside the caches, of which files were opened."""

    path: str
    format: str | None
    weights: bool
    files: tuple[OpenedFile, ...]
    bytes: int
    first_opened: float
    process: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        return self.path


class Expected(NamedTuple):
    """One expectation, and whether the run met it; `None`: it could not be told."""

    name: str
    ok: bool | None
    reason: str


class Unexpected(NamedTuple):
    """Something that was opened and not meant."""

    name: str
    reason: str


class RunReport(NamedTuple):
    """What `mdl run` and `mdl.watch` saw. Times are seconds (since 1970), sizes bytes.

    `unseen` are the reasons why something may have been missed; `elsewhere` the models that other
    processes opened meanwhile. `verdict` is `met`, `unmet`, `unsure`, or `None` where nothing was
    expected.
    """

    command: tuple[str, ...]
    folder: str
    started: float
    seconds: float
    exit_code: int | None
    signal: str | None
    loads: tuple[Load, ...]
    folders: tuple[FolderLoad, ...]
    requested: tuple[Mapping[str, Any], ...]
    downloads: tuple[Mapping[str, Any], ...]
    elsewhere: tuple[Mapping[str, Any], ...]
    unseen: tuple[str, ...]
    still_running: tuple[Mapping[str, Any], ...]
    expected: tuple[Expected, ...] = ()
    unexpected: tuple[Unexpected, ...] = ()
    verdict: str | None = None
    stopped: bool = False
    mdl: str = __version__

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = _plain(self)
        return body

    def save(self, path: str) -> None:
        """Write the report, whole or not at all.

        Raises:
            DiskError: it cannot be written.
        """
        import json

        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with open(temporary, "w") as file:
                json.dump(self.to_json(), file, indent=2)
                file.write("\n")
            os.replace(temporary, path)
        except OSError as error:
            raise _not_writable(path, error) from error

    def summary(self) -> list[str]:
        """The lines for people, without the verdict."""
        models: list[Load | FolderLoad] = [*self.loads, *self.folders]
        shown = [each for each in models if _is_model(each)]
        loaded = sum(each.weights for each in shown)
        count = f"{loaded} model{'' if loaded == 1 else 's'}"
        what = f"{_shorten(' '.join(self.command))} " if self.command else ""
        lines = [f"mdl run: {what}opened {count} in {duration(self.seconds)}"]
        lines += [f"  {_line(each)}" for each in shown]
        lines += [f"  {_line(each)}" for each in models if not _is_model(each)]
        lines += [
            f"  downloaded {human_size(each['bytes'])} of {each['repo_id']}"
            for each in self.downloads
        ]
        lines += [
            f"  asked for {each['repo_id']}: {_ANSWERS.get(each['status'], each['status'])}"
            for each in self.requested
            if (each["status"] or 0) >= 400
        ]
        lines += [
            f"  still running: {_shorten(each['command'])} (process {each['pid']});"
            " what it opens from now on is not seen"
            for each in self.still_running
        ]
        lines += [f"  not seen: {text}" for text in self.unseen[:_NAMED]]
        if len(self.unseen) > _NAMED:
            lines.append(f"  not seen: {len(self.unseen) - _NAMED} more, in the report")
        return lines


def check_writable(path: str) -> None:
    """Refuse before a run what its report could not be written to.

    Raises:
        DiskError: it is a folder, or its folder cannot be made or written.
    """
    folder = os.path.dirname(path) or "."
    try:
        os.makedirs(folder, exist_ok=True)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _not_writable(path, error) from error


def _not_writable(path: str, error: OSError) -> DiskError:
    return DiskError(
        f"The report cannot be written to {path}.",
        why=error.strerror or str(error),
        next="Use another path.",
    )


def _plain(value: Any) -> Any:
    """Named tuples as tables, tuples as lists."""
    if isinstance(value, tuple):
        if hasattr(value, "_asdict"):
            return {name: _plain(each) for name, each in value._asdict().items()}
        return [_plain(each) for each in value]
    return value


_ANSWERS = {401: "no access (401)", 403: "no access (403)", 404: "not found (404)"}


def _is_model(each: Load | FolderLoad) -> bool:
    return isinstance(each, FolderLoad) or each.repo_type == "model"


def _line(each: Load | FolderLoad) -> str:
    if isinstance(each, Load):
        kind = "" if each.repo_type == "model" else f"{each.repo_type} "
        name = f"{kind}{each.repo_id}{f' @ {each.commit[:7]}' if each.commit else ''}"
    else:
        name = each.path
    names = [file.path for file in sorted(each.files, key=lambda file: -file.size)]
    rest = len(names) - _NAMED
    said = ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    what = (each.format or "format unknown") if each.weights else "no weights"
    parts = [name, f"{human_size(each.bytes)}", said]
    if isinstance(each, FolderLoad) or each.repo_type == "model":
        parts.insert(1, what)
    if isinstance(each, Load) and each.mirror_of:
        parts.append(f"a mirror of {each.mirror_of[0].name}")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """`0.4 s`, `41 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def read_run_report(body: Mapping[str, Any], where: str) -> RunReport:
    """The report that `to_json` gave.

    Raises:
        UsageError: it is not the report of a run.
    """
    try:
        table = dict(body)
        for key in ("command", "requested", "downloads", "elsewhere", "unseen", "still_running"):
            table[key] = tuple(table[key])
        table["loads"] = tuple(
            Load(
                **{
                    **load,
                    "files": _files(load["files"]),
                    "same_in": tuple(load["same_in"]),
                    "refs": tuple(load["refs"]),
                    "mirror_of": tuple(KnownMirror(**each) for each in load["mirror_of"]),
                }
            )
            for load in table["loads"]
        )
        table["folders"] = tuple(
            FolderLoad(**{**each, "files": _files(each["files"])}) for each in table["folders"]
        )
        table["expected"] = tuple(Expected(**each) for each in table["expected"])
        table["unexpected"] = tuple(Unexpected(**each) for each in table["unexpected"])
        return RunReport(**table)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{where} is not a report that `mdl run --report` wrote.",
            why=f"{type(error).__name__}: {error}",
            next="Give a report, a lock file or a snapshot folder.",
        ) from error


def _files(rows: Sequence[Mapping[str, Any]]) -> tuple[OpenedFile, ...]:
    return tuple(OpenedFile(**{**row, "seen_by": tuple(row["seen_by"])}) for row in rows)
