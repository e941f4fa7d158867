"""The report of a run, from what was seen and what was expected."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mdl.cachemgr import parse_folder
from mdl.errors import MdlError
from mdl.observe.cache_paths import CacheFiles, parse_path
from mdl.observe.describe import KnownRepos, folders_of, loads_of
from mdl.observe.report import Expected, FolderLoad, Load, RunReport, Unexpected
from mdl.observe.sightings import Sightings
from mdl.observe.verdict import check, check_locked, verdict_of
from mdl.settings import Settings

if TYPE_CHECKING:
    from mdl.observe.session import Ended, Requirements, Session


def compose(
    session: "Session", ended: "Ended", seconds: float, still: Iterable[Mapping[str, Any]]
) -> RunReport:
    """The report of a session whose watching is over."""
    seen, watcher = session.observer.seen, session.observer.watcher
    loads, folders = models_of(seen, session.settings)
    expected, unexpected = compare(session.required, loads, folders)
    verdict = None
    if session.required.anything:
        verdict = verdict_of(expected, unexpected, all_seen=not watcher.blind)
    return RunReport(
        command=session.words,
        folder=session.folder,
        started=session.started,
        seconds=seconds,
        exit_code=ended.code,
        signal=ended.signal,
        loads=loads,
        folders=folders,
        requested=_requested(seen, watcher.requested),
        downloads=_downloads(watcher.arrived),
        elsewhere=_elsewhere(seen),
        unseen=tuple(watcher.gaps),
        still_running=tuple(still),
        expected=expected,
        unexpected=unexpected,
        verdict=verdict,
        stopped=session.stopped,
    )


def models_of(
    seen: Sightings, settings: Settings, *, headers: bool = True
) -> tuple[tuple[Load, ...], tuple[FolderLoad, ...]]:
    """What was opened so far, in the caches and outside them.

    Args:
        seen: the files.
        settings: where the catalogue is.
        headers: whether more than config.json may be read to tell formats.
    """
    if not seen.files:
        return (), ()
    with _known_repos(settings) as known:
        loads = loads_of(seen, CacheFiles(), known, headers=headers)
        return loads, folders_of(seen, headers=headers)


def compare(
    required: "Requirements", loads: Sequence[Load], folders: Sequence[FolderLoad]
) -> tuple[tuple[Expected, ...], tuple[Unexpected, ...]]:
    """Hold what was opened to what is required."""
    expected: tuple[Expected, ...] = ()
    unexpected: tuple[Unexpected, ...] = ()
    if required.expectations:
        expected, unexpected = check(required.expectations, loads, folders)
    if required.lock is not None:
        unexpected += check_locked(required.locked, loads, folders, required.lock)
    return expected, unexpected


def record(report: RunReport, settings: Settings) -> None:
    """Write a run into the record of use and the resolution log, where they can be written."""
    loads = [load for load in report.loads if load.commit is not None]
    if not loads:
        return
    from pathlib import Path

    from mdl.cachemgr import open_cache
    from mdl.store import open_catalog

    with contextlib.suppress(MdlError, OSError):
        for load in loads:
            cache = open_cache(settings, root=Path(load.path).parents[2])
            cache.record_use(load.spelling, str(load.commit), load.repo_type)
    models = [load for load in loads if load.repo_type == "model"]
    if models:
        with contextlib.suppress(MdlError, OSError):
            catalog = open_catalog(settings)
            with contextlib.closing(catalog.database):
                rows = [(load.first_opened, *_log_entry(load)) for load in models]
                catalog.log_many("run", rows)


def _log_entry(load: Load) -> tuple[str, str, dict[str, Any]]:
    """What was opened, as the log keeps resolutions; nothing was resolved."""
    mirror = load.mirror_of[0] if load.mirror_of else None
    return load.spelling, load.format or "", {
        "repo_id": load.repo_id,
        "commit": load.commit,
        "substituted": False,
        "rule": "opened",
        "source": mirror.source if mirror else "run",
        "source_version": mirror.source_version if mirror else None,
    }  # fmt: skip


@contextlib.contextmanager
def _known_repos(settings: Settings) -> Any:
    """What is known here of repositories; nothing, where the files of it cannot be read."""
    from mdl.cachemgr import open_cache
    from mdl.store import open_catalog

    canonical: dict[str, str] = {}
    with contextlib.suppress(MdlError, OSError):
        canonical = open_cache(settings).index.canonical()
    try:
        catalog = open_catalog(settings)
    except (MdlError, OSError):
        yield KnownRepos(None, canonical)
        return
    with contextlib.closing(catalog.database):
        yield KnownRepos(catalog, canonical)


def _requested(seen: Sightings, made: Mapping[str, float]) -> tuple[dict[str, Any], ...]:
    """The repositories that were asked for, and those whose folders a download made."""
    requests = {key: request._asdict() for key, request in seen.requests.items()}
    for path in made:
        kind, repo_id = parse_folder(os.path.basename(path)) or ("", "")
        made_for = {"repo_type": kind, "repo_id": repo_id, "revision": None, "status": None}
        requests.setdefault((kind, repo_id), made_for)
    return tuple(requests.values())


def _downloads(arrived: Mapping[str, float]) -> tuple[dict[str, Any], ...]:
    """What came into the caches, by repository."""
    found: dict[str, dict[str, Any]] = {}
    for path in arrived:
        cached = parse_path(path)
        if cached is None or not cached.folder:
            continue
        kind, repo_id = parse_folder(cached.folder) or ("", "")
        row = found.setdefault(
            cached.repository,
            {"repo_id": repo_id, "repo_type": kind, "files": 0, "bytes": 0},
        )
        row["files"] += 1
        with contextlib.suppress(OSError):
            row["bytes"] += os.path.getsize(path)
    return tuple(found.values())


def _elsewhere(seen: Sightings) -> tuple[dict[str, Any], ...]:
    """The repositories whose files only other processes held."""
    found: dict[str, dict[str, Any]] = {}
    for path, sighting in seen.files.items():
        cached = parse_path(path)
        if not sighting.is_ours and cached is not None and cached.folder:
            _, repo_id = parse_folder(cached.folder) or ("", cached.folder)
            process = sighting.elsewhere
            found.setdefault(
                repo_id, {"repo_id": repo_id, "process": process and process._asdict()}
            )
    return tuple(found.values())
