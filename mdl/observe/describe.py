"""From what was seen to what was loaded: names, formats, sizes, and what the catalogue knows."""

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mdl.cachemgr import parse_folder, repo_key
from mdl.observe.cache_paths import CacheFiles, files_in, parse_path
from mdl.observe.report import FolderLoad, KnownMirror, Load, OpenedFile
from mdl.observe.sightings import Group, Grouped, Sighting, Sightings, first_process

if TYPE_CHECKING:
    from mdl.store import Catalog

_WEIGHTS = re.compile(
    r"(?!.*(?:^|/)(?:training_args|optimizer|scheduler|scaler|rng_state)[^/]*$)"
    r".*\.(?:safetensors|gguf|bin|pt|pth|ckpt|onnx|h5|msgpack|npz)"
)
_ALONE = (".safetensors", ".gguf")
_ORIGINAL = "official"  # the variant of a row that leads to the repository itself
_MOST_CONFIG = 10 << 20
_OF_MODELS = {"model_type", "architectures", "_class_name", "peft_type"}
_HIGHER = ("config.json", "modules.json", "model_index.json")
_GATED: Mapping[str | None, bool | str | None] = {
    "false": False, "auto": "auto", "manual": "manual",
}  # fmt: skip


def is_weights(path: str) -> bool:
    """Whether a file's name is one of weights, and not of a training's state."""
    return _WEIGHTS.fullmatch(path) is not None


def format_of(folder: str, opened: Collection[str], *, headers: bool = True) -> str | None:
    """The format of the weights that were opened, by what they and the files beside them contain.

    Args:
        folder: a snapshot, or the folder of a model.
        opened: paths in it that were opened.
        headers: whether to read more files than `config.json`.
    """
    from pathlib import Path

    from mdl.formats import Description, File, describe_folder, recognize

    if not any(map(is_weights, opened)):
        return None
    if headers:
        described = describe_folder(Path(folder))
    else:
        names = [os.path.relpath(path, folder) for path in files_in(folder)]
        described = Description(
            files=tuple(File(name, None) for name in names), config=read_config(folder)
        )
    files = [each for each in described.files if each.path in opened or not is_weights(each.path)]
    return recognize(described._replace(files=tuple(files))).format


def read_config(folder: str) -> dict[str, Any] | None:
    """A folder's config.json, where it is one."""
    import json

    path = f"{folder}/config.json"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if os.path.getsize(path) <= _MOST_CONFIG:
            with open(path, encoding="utf-8") as file:
                config = json.load(file)
            return config if isinstance(config, dict) else None
    return None


class KnownRepos:
    """What this machine knows of repositories without asking the Hub.

    Args:
        catalog: the catalogue, where it can be read.
        canonical: repository key → the Hub's spelling, as the cache's index remembers it.
    """

    def __init__(self, catalog: "Catalog | None", canonical: Mapping[str, str]) -> None:
        self._catalog = catalog
        self._canonical = canonical

    def of(self, repo_type: str, repo_id: str) -> tuple[str, bool | str | None, list[KnownMirror]]:
        """The Hub's spelling, gating, and what it is a mirror of, the original first."""
        spelling = self._canonical.get(repo_key(repo_type, repo_id), repo_id)
        if self._catalog is None or repo_type != "model":
            return spelling, None, []
        key = repo_id.lower()
        record = self._catalog.about(key)
        rows = [r for r in self._catalog.mirrors(name=key) if r.repo_id.lower() == key]
        if record.repository is not None:
            spelling = record.repository.repo_id
        elif rows:
            spelling = rows[0].repo_id
        originals = {r.repo_id for r in rows if r.name.lower() == key and r.variant == _ORIGINAL}
        mirrors = [
            KnownMirror(r.name, r.format, r.variant, r.relation, r.source, r.source_version)
            for r in sorted(rows, key=lambda r: (r.name not in originals, r.name.lower()))
            if r.name.lower() != key and r.variant != _ORIGINAL
        ]
        return spelling, _GATED.get(record.repository and record.repository.gated), mirrors


def loads_of(
    sightings: Sightings, cache_files: CacheFiles, known: KnownRepos, *, headers: bool = True
) -> tuple[Load, ...]:
    """The repositories of which the run opened files, in the order of their first opening."""

    def rank(group: Group) -> tuple[bool, float]:
        snapshots = cache_files.snapshots(group[0])
        return group[1] == snapshots.refs.get("main"), snapshots.age_of(group[1])

    found = [
        _load(group, sightings, cache_files, known, headers=headers)
        for group in [*sightings.grouped(rank), *_without_snapshot(sightings)]
        if group.files
    ]
    return tuple(sorted(found, key=lambda load: load.first_opened))


def _without_snapshot(sightings: Sightings) -> Iterable[Grouped]:
    """Files of caches that no snapshot names, by repository."""
    found: dict[str, dict[str, Any]] = {}
    for path, sighting in sightings.outside().items():
        cached = parse_path(path)
        if cached is not None and cached.folder:
            found.setdefault(cached.repository, {})[cached.inside] = (None, sighting)
    return [Grouped(repository, "", files, ()) for repository, files in found.items()]


def _load(
    group: Grouped,
    sightings: Sightings,
    cache_files: CacheFiles,
    known: KnownRepos,
    *,
    headers: bool,
) -> Load:
    repo_type, repo_id = parse_folder(os.path.basename(group.repository)) or ("model", "")
    claim = sightings.claims.get((group.repository, group.commit))
    spelling, gated, mirrors = known.of(repo_type, repo_id)
    snapshots = cache_files.snapshots(group.repository)
    folder = f"{group.repository}/snapshots/{group.commit}" if group.commit else group.repository
    files = _opened({path: s for path, (_, s) in group.files.items()},
                    {path: m.hash for path, (m, _) in group.files.items() if m})  # fmt: skip
    process = first_process(s for _, s in group.files.values()) or (claim and claim.process)
    return Load(
        repo_id=spelling,
        repo_type=repo_type,
        commit=group.commit or None,
        spelling=claim.spelling if claim else repo_id,
        path=folder,
        same_in=group.same_in,
        refs=tuple(sorted(ref for ref, to in snapshots.refs.items() if to == group.commit)),
        format=format_of(folder, {file.path for file in files}, headers=headers),
        weights=any(is_weights(file.path) for file in files),
        files=files,
        bytes=sum(file.size for file in files),
        first_opened=min(file.first_opened for file in files),
        process=process and process._asdict(),
        gated=gated,
        mirror_of=tuple(mirrors),
    )


def folders_of(sightings: Sightings, *, headers: bool = True) -> tuple[FolderLoad, ...]:
    """The models outside the caches of which the run opened files."""
    groups: dict[str, dict[str, Sighting]] = {}
    for path, sighting in sightings.outside().items():
        if parse_path(path) is None:
            folder = _top(os.path.dirname(path))
            groups.setdefault(folder, {})[os.path.relpath(path, folder)] = sighting
    found = []
    for folder, files in groups.items():
        config = read_config(folder)
        is_model = config is not None and not _OF_MODELS.isdisjoint(config)
        if is_model or any(path.endswith(_ALONE) for path in files) or _has_higher(folder):
            opened = _opened(files, {})
            process = first_process(files.values())
            found.append(
                FolderLoad(
                    path=folder,
                    format=format_of(folder, files.keys(), headers=headers),
                    weights=any(map(is_weights, files)),
                    files=opened,
                    bytes=sum(file.size for file in opened),
                    first_opened=min(file.first_opened for file in opened),
                    process=process and process._asdict(),
                )
            )
    return tuple(sorted(found, key=lambda each: each.first_opened))


def _top(folder: str) -> str:
    """The folder of the whole model of which this may be a part, as of sentence-transformers."""
    parent = os.path.dirname(folder)
    while any(os.path.isfile(f"{parent}/{name}") for name in _HIGHER):
        folder, parent = parent, os.path.dirname(parent)
    return folder


def _has_higher(folder: str) -> bool:
    return any(os.path.isfile(f"{folder}/{name}") for name in _HIGHER[1:])


def _opened(
    files: Mapping[str, Sighting], hashes: Mapping[str, str | None]
) -> tuple[OpenedFile, ...]:
    return tuple(
        OpenedFile(path, s.size, hashes.get(path), s.first, tuple(sorted(s.by)))
        for path, s in sorted(files.items())
    )
