"""Before a run without network: is what its lock file names here, and whole?"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mdl.cachemgr import open_cache
from mdl.errors import OfflineError
from mdl.observe.cache_paths import RepoSnapshots
from mdl.observe.describe import is_weights
from mdl.settings import Settings

if TYPE_CHECKING:
    from mdl.resolver import LockEntry

_INDEX = ".index.json"


def refuse_incomplete(entries: "Iterable[LockEntry]", lock: str, settings: Settings) -> None:
    """Check that all that a lock file names can be loaded without the Hub.

    Contents are compared by the names of their blobs; `mdl verify` reads them.

    Raises:
        OfflineError: something is missing, damaged or not what was locked.
    """
    cache = open_cache(settings)
    for entry in entries:
        placed = cache.placement(entry.repo_id, commit=entry.commit)
        if placed.path is None or placed.state == "broken":
            why = "it is not in the cache" if placed.path is None else "a file of it is damaged"
        else:
            why = _why_incomplete(entry.files, placed.path)
        if why:
            raise OfflineError(
                f"{entry.repo_id} @ {entry.commit[:12]} cannot be loaded offline.",
                why=why,
                next=f"With the network: mdl pull {entry.requested} --locked {lock}",
            )


def _why_incomplete(locked: Mapping[str, str], snapshot: Path) -> str:
    """Why a snapshot is not what was locked, or `""`."""
    files = RepoSnapshots(str(snapshot.parent.parent)).files.get(snapshot.name, {})
    for path, blob in files.items():
        if path in locked and blob is not None and locked[path].partition(":")[2] != blob:
            return f"{path} is another file than the locked one"
        if not os.path.exists(snapshot / path):
            return f"{path} is not there"
    for path in ("config.json", "adapter_config.json"):
        if path in locked and path not in files:
            return f"{path} is not there"
    for index in (path for path in files if path.endswith(_INDEX)):
        for shard in _shards(snapshot / index):
            if shard not in files:
                return f"{shard} is not there"
    if any(map(is_weights, locked)) and not any(map(is_weights, files)):
        return "its weights are not there"
    return ""


def _shards(index: Path) -> set[str]:
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(name) for name in table.values()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return set()
