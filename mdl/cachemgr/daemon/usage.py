"""Who uses what: files of the cache that processes hold open or mapped, as /proc tells.

Honest limits: a file opened and closed between two looks is not seen (a load maps its weights
for longer than that, `mdl.load` records its own use besides); processes of other users are not
seen; anything that reads a blob counts, a backup too. Where there is no /proc nothing is seen.
"""

import os
from collections.abc import Callable, Mapping

from mdl.cachemgr.journal import list_open_files, open_revisions
from mdl.cachemgr.layout import IN_PROGRESS, INCOMPLETE, parse_folder, repo_key
from mdl.cachemgr.scan import scan_folder, store_is_marked
from mdl.store import CacheIndex

# The same process holding the same file is noted again after this long.
AGAIN_AFTER = 600.0
_MOST_REMEMBERED = 10_000


class UseJournal:
    """Turns open files into journal lines: repository, commit, now.

    Args:
        opened: path below the root → process; `list_open_files` of the root.
    """

    def __init__(
        self, root: str, opened: Callable[[str], Mapping[str, int]] = list_open_files
    ) -> None:
        self._root = root
        self._opened = opened
        self._noted: dict[str, float] = {}

    def look(self, index: CacheIndex, now: float) -> int:
        """Note what is in use now (seconds since 1970); how many revisions that were."""
        fresh: dict[str, set[str]] = {}
        for path in self._opened(self._root):
            folder, _, rest = path.partition("/")
            place, _, name = rest.partition("/")
            if place not in ("blobs", "snapshots") or name.endswith((INCOMPLETE, IN_PROGRESS)):
                continue
            # A clock set back must not silence the journal.
            if 0 <= now - self._noted.get(path, -AGAIN_AFTER) < AGAIN_AFTER:
                continue
            self._noted[path] = now
            fresh.setdefault(folder, set()).add(rest)
        if len(self._noted) > _MOST_REMEMBERED:
            self._noted = {p: at for p, at in self._noted.items() if 0 <= now - at < AGAIN_AFTER}
        found = 0
        for folder, paths in fresh.items():
            for key, commit in self._revisions(folder, paths):
                index.record_use(key, commit, now)
                found += 1
        return found

    def _revisions(self, folder: str, paths: set[str]) -> set[tuple[str, str]]:
        """The revisions that open paths belong to: every one whose snapshot names the blob."""
        parsed = parse_folder(folder)
        if parsed is None or not os.path.isdir(os.path.join(self._root, folder)):
            return set()
        found = scan_folder(self._root, folder, marked=store_is_marked(self._root))
        opened = dict.fromkeys((f"{folder}/{path}" for path in paths), os.getpid())
        return {(repo_key(*parsed), commit) for commit in open_revisions(found, opened)}
