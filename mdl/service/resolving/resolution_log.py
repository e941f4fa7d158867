"""Substitutions on their way into the resolution log: in batches, each at most once an hour."""

import logging
import threading
import time
from collections import OrderedDict
from typing import Any

from mdl.errors import MdlError
from mdl.resolver import Resolution
from mdl.store import Catalog

log = logging.getLogger("mdl.service")

_AGAIN_AFTER = 3600.0  # seconds
_MOST_REMEMBERED = 50_000
_MOST_WAITING = 20_000


class ResolutionLog:
    """Collects rows from any thread; `write` puts them into the catalogue."""

    _FIELDS = ("repo_id", "commit", "substituted", "rule", "source", "source_version")

    def __init__(self) -> None:
        self._written: OrderedDict[int, float] = OrderedDict()  # a resolution's hash → when
        # As rows: whole resolutions, with their traces, would take much more memory.
        self._waiting: list[tuple[float, str, str, dict[str, Any]]] = []
        self._lock = threading.Lock()

    def add(self, resolution: Resolution) -> None:
        key = hash((resolution.requested, resolution.format, resolution.repo_id, resolution.commit))
        now = time.time()
        with self._lock:
            if now - self._written.get(key, 0.0) < _AGAIN_AFTER:
                return
            self._written[key] = now
            if len(self._written) > _MOST_REMEMBERED:
                self._written.popitem(last=False)
            row = {name: getattr(resolution, name) for name in self._FIELDS}
            self._waiting.append((now, resolution.requested, resolution.format, row))

    def drop(self) -> None:
        """Forget what is waiting: the database cannot be written."""
        with self._lock:
            self._waiting = []

    def write(self, catalog: Catalog) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            catalog.log_many("service", batch)
        except MdlError as error:
            with self._lock:
                kept = batch + self._waiting
                self._waiting = kept[-_MOST_WAITING:]
            lost = len(kept) - len(self._waiting)
            log.error("Could not write the resolution log (%d rows lost): %s", lost, error.message)
