"""Puts together what inotify, /proc and the Python processes tell while a run lasts."""

import os
import re
import time
from collections.abc import Iterable

from mdl.observe.cache_paths import CacheFiles, SnapshotFile, parse_path, real_path
from mdl.observe.messages import Message
from mdl.observe.processes import Process, RunProcesses
from mdl.observe.sightings import Claim, Request, Sighting, Sightings
from mdl.observe.watcher import OpenWatcher

_FIRST_LOOK, _LAST_LOOK = 0.05, 5.0  # seconds between looks at /proc: ever fewer
_ELSEWHERE = 0.5
_PROMPT = 0.015  # so soon after its opening, a file that was loaded is still held
_LARGE = 1 << 20
# A repository in the address of one of the Hub's resources.
_ADDRESS = (
    r"https?://[^/]+(?:/[^/]+)*?/"
    r"(?:api/(?P<types>models|datasets|spaces)/(?P<name>[^/]+/(?!revision/|tree/)[^/]+|[^/]+)"
    r"(?:/(?:revision|tree|paths-info)/(?P<at>[^/]+))?"
    r"|(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+|[^/]+)/resolve/(?P<revision>[^/]+))(?:/|$)"
)
_ALONE = (".safetensors", ".gguf")  # models also without a config.json beside them


class Observer:
    """Watches one run.

    Args:
        processes: which processes are the run's.
        roots: cache roots.
        folders: folders of models outside them.

    Raises:
        OSError: the system has no inotify, or none left for this user.
    """

    def __init__(
        self, processes: RunProcesses, roots: Iterable[str], folders: Iterable[str] = ()
    ) -> None:
        self.processes = processes
        self.seen = Sightings()
        self.watcher = OpenWatcher()
        self._cache_files = CacheFiles()
        self._ignored: set[str] = set()
        self._changed = False
        self._last_read = time.monotonic()
        self._interval = _FIRST_LOOK
        self._next_look = self._last_read + _FIRST_LOOK
        self._next_elsewhere = 0.0
        for root in roots:
            self.watcher.add_root(root)
        for folder in folders:
            self.watcher.add_folder(folder)

    @property
    def fd(self) -> int:
        """Readable when something was opened."""
        return self.watcher.fd

    def wait(self) -> float:
        """Seconds after which `serve` is due though nothing happened."""
        return max(0.0, self._next_look - time.monotonic())

    def serve(self, messages: Iterable[Message] = (), read_here: Iterable[str] = ()) -> bool:
        """Take in what happened; whether something new was opened since the last call.

        Args:
            messages: those that came.
            read_here: files that this process itself has read since the last call.
        """
        self._changed = False
        for message in messages:
            self.receive(message)
        before = self._last_read
        opened = self.watcher.read({os.path.realpath(path) for path in read_here})
        self._last_read = time.monotonic()
        now = time.time()
        fresh = [  # a microsecond apart, to keep their order
            self._see(path, "inotify", None, now + number / 1e6)
            for number, path in enumerate(opened)
        ]
        unheld = [sighting for sighting in fresh if sighting.size >= _LARGE]
        if unheld or self._last_read >= self._next_look:
            self._look()
            prompt = time.monotonic() - before <= _PROMPT
            for sighting in unheld:
                sighting.looked = prompt
            self._look_elsewhere(s for s in unheld if s.process is None)
        self.watcher.work(0.005)
        return self._changed

    def receive(self, message: Message) -> None:
        """Take in what a process said; files in its folder are watched when this returns."""
        who = Process(message.pid, message.command)
        if message.kind in ("file", "folder") and message.fields:
            self._named(message.kind, message.fields[0], who, message.at)
        elif message.kind == "root" and message.fields:
            self.watcher.add_root(message.fields[0])
        elif message.kind == "asked" and len(message.fields) == 3:
            kind, repo_id, revision = message.fields
            self._requested(Request(kind or "model", repo_id, revision or None, None))
        elif message.kind == "response" and len(message.fields) == 2:
            request = request_of(*message.fields)
            if request is not None:
                self._requested(request)

    def ignore(self, paths: Iterable[str]) -> None:
        """Take no note of files that were held before: only of their being opened again."""
        self._ignored.update(paths)

    def finish(self) -> Sightings:
        """The last look; nothing is watched afterwards."""
        self.serve()
        while not self.watcher.work():
            pass
        for path in self.watcher.read_back():
            self._see(path, "inotify", None, time.time())
        self.watcher.close()
        self._cache_files.refresh()  # snapshots may have been added since a file was opened
        for path, sighting in self.seen.files.items():
            known = {*sighting.members}
            sighting.members += [m for m in self._cache_files.members(path) if m not in known]
        return self.seen

    # -- taking in --------------------------------------------------------------------------

    def _see(self, path: str, by: str, process: Process | None, at: float) -> Sighting:
        sighting = self.seen.files.get(path)
        if sighting is None:
            try:
                size = os.stat(path).st_size
            except OSError:
                size = 0
            sighting = Sighting(at, size, self._members(path))
            self.seen.files[path] = sighting
            self._changed = True
        sighting.by.add(by)
        sighting.first = min(sighting.first, at)
        if sighting.process is None and process is not None:
            sighting.process = process
            self._changed = True
        return sighting

    def _members(self, path: str) -> list[SnapshotFile]:
        found = self._cache_files.members(path)
        if not found and parse_path(path) is not None:
            self._cache_files.refresh()  # it was downloaded a moment ago
            found = self._cache_files.members(path)
        return found

    def _named(self, kind: str, path: str, who: Process, at: float) -> None:
        """A process opened a file by this path, or is about to."""
        cached = parse_path(path)
        if cached is None:
            if kind == "folder" and is_of_model(path):
                self.watcher.add_folder(os.path.dirname(path))
                if os.path.isfile(path):
                    self._see(os.path.realpath(path), "python", who, at)
            return
        self.watcher.add_root(cached.root)
        real = real_path(cached)
        part, _, rest = real.inside.partition("/")
        file = os.path.realpath(f"{real.repository}/{real.inside}")
        if os.path.isfile(file):
            self._see(file, "python", who, at)
        if part == "snapshots":
            group = (real.repository, rest.partition("/")[0])
            spelling = cached.folder.partition("--")[2].replace("--", "/")
            if group not in self.seen.claims:
                self.seen.claims[group] = Claim(at, who, spelling)
                self._changed = True

    def _requested(self, request: Request) -> None:
        key = (request.repo_type, request.repo_id)
        known = self.seen.requests.get(key)
        if known is None or (request.status or 0) > (known.status or 0):
            self.seen.requests[key] = request

    def _look(self) -> None:
        now = time.monotonic()
        count = len(self.seen.files)
        for path, pid in self.processes.open_now().items():
            if path in self._ignored or os.path.isdir(path):
                continue
            if parse_path(path) is None:
                if not is_of_model(path):
                    continue
                self.watcher.add_folder(os.path.dirname(path))
            self._see(path, "proc", Process(pid, self.processes.command(pid)), time.time())
        grew = len(self.seen.files) > count
        self._interval = _FIRST_LOOK if grew else min(self._interval * 2, _LAST_LOOK)
        self._next_look = now + self._interval

    def _look_elsewhere(self, sightings: Iterable[Sighting]) -> None:
        unheld = {id(s) for s in sightings}
        if not unheld or time.monotonic() < self._next_elsewhere:
            return
        self._next_elsewhere = time.monotonic() + _ELSEWHERE
        held = self.processes.open_elsewhere()
        for path, sighting in self.seen.files.items():
            if id(sighting) in unheld and path in held:
                pid = held[path]
                sighting.elsewhere = Process(pid, self.processes.command(pid))


def is_of_model(path: str) -> bool:
    """Whether a file outside the caches is one of a model: by its name, or by its folder's."""
    return path.endswith(_ALONE) or os.path.isfile(f"{os.path.dirname(path)}/config.json")


def request_of(address: str, status: str) -> Request | None:
    """The repository behind an address of the Hub; `None` for addresses of other things."""
    match = re.match(_ADDRESS, address)
    if match is None or not status.isdigit():
        return None
    from urllib.parse import unquote

    repo_type = (match["types"] or match["kind"] or "models").removesuffix("s")
    revision = match["at"] or match["revision"]
    return Request(
        repo_type,
        unquote(match["name"] or match["repo"]),
        unquote(revision) if revision else None,
        int(status),
    )
