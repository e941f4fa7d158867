"""The process that keeps one cache root right: index, casings, budget, use.

`due_jobs` is a generator of jobs with an injected clock and an injected wait; `DaemonLoop` carries
one job out. What the daemon decides is decided by the functions the commands use: `plan_prune`,
the normalize plan, the journal and the trash.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mdl.cachemgr.cache import Cache, open_cache
from mdl.cachemgr.daemon.usage import UseJournal
from mdl.cachemgr.daemon.watch import Notes, Probe, Watcher
from mdl.cachemgr.index import Summary, physical
from mdl.cachemgr.journal import QUIET_SECONDS, busy_folders, last_written
from mdl.cachemgr.layout import parse_folder, repo_key
from mdl.cachemgr.normalize import NormalizeRequest, apply_normalize, plan_normalize
from mdl.cachemgr.remove import (
    Policy,
    apply_prune,
    choose_trash,
    empty_trash,
    plan_prune,
    trash_entries,
)
from mdl.errors import ConfigError, MdlError
from mdl.settings import Settings, config_path

log = logging.getLogger("mdl.daemon")

PERIODS = {"look": 1.0, "probe": 30.0, "floor": 5.0, "use": 15.0, "prune": 3600.0, "tidy": 3600.0,
           "config": 5.0}  # fmt: skip
# No job should take more than this share of the time: a slower disk is looked at less often, but
# the light look never so seldom that the index would follow later than in two seconds.
_SHARE = 0.005
_SLOWEST = 10.0
_SLOWEST_LOOK = 1.5
# A repository that could not be normalized, or a budget that could not be met, is tried again.
_RETRY = 60.0


def due_jobs(
    clock: Callable[[], float], wait: Callable[[float], str], took: dict[str, float]
) -> Iterator[str]:
    """Which job is due, one after another, until `wait` says to stop.

    Args:
        clock: monotonic seconds.
        wait: sleeps for at most so many seconds; `noted` when something was noticed before that,
            `stop` to end, else `''`.
        took: what each job took last, in seconds; stretches its period.
    """
    due = dict.fromkeys(PERIODS, clock())
    while True:
        now = clock()
        for job, at in due.items():
            if now >= at:
                yield job
                most = PERIODS[job] * (_SLOWEST_LOOK if job == "look" else _SLOWEST)
                stretched = min(took.get(job, 0.0) / _SHARE, most)
                due[job] = clock() + max(PERIODS[job], stretched)
        why = wait(max(0.0, min(due.values()) - clock()))
        if why == "stop":
            return
        if why == "noted":
            due["look"] = clock()


@dataclass
class Counts:
    """What was done since the start; `status` shows it."""

    surveys: int = 0
    normalized: int = 0
    pruned: int = 0
    freed: int = 0
    uses: int = 0
    errors: int = 0


@dataclass
class State:
    """What `status` tells, replaced as a whole so that another thread reads one moment."""

    repos: int = 0
    size_on_disk: int = 0
    last_change: float | None = None
    last_error: str = ""
    config_error: str = ""
    short: int = 0
    restored: int = 0
    trash: int = 0
    last_prune: float | None = None
    counts: Counts = field(default_factory=Counts)


class DaemonLoop:
    """One root, kept. Every method is one job of the loop; a failure is noted, never the end."""

    def __init__(self, settings: Settings, load: Callable[[], Settings]) -> None:
        self.settings = settings
        self.cache: Cache = open_cache(settings)
        self.root = os.fspath(self.cache.root)
        self.state = State()
        self.started = time.time()
        self.took: dict[str, float] = {}
        self.notes = Notes()
        self.watcher = Watcher(self.root, self.notes.add)
        self._load = load
        self._probe = Probe(self.root)
        self._uses = UseJournal(self.root)
        self._identity = self._probe.identity
        self._config_stamp = self._stamp_of_config()
        self._try_again: dict[str, float] = {}  # repo_key → monotonic time
        self._prune_after = 0.0

    def start(self) -> None:
        self.watcher.start()
        if self.watcher.mode.kind == "probing":
            log.warning("Probing only: %s", self.watcher.mode.why)

    def close(self) -> None:
        self.watcher.stop()
        self.cache.index.close()

    def run(self, job: str) -> None:
        """Carry out one job; what fails is said once and tried again later."""
        start = time.monotonic()
        try:
            getattr(self, f"do_{job}")()
        except (MdlError, OSError) as error:
            self.state.counts.errors += 1
            text = f"{job}: {error}"
            if text != self.state.last_error:
                log.error("%s", text)
            self.state = replace(self.state, last_error=text)
        if job != "look":  # it measures its own idle part
            self.took[job] = time.monotonic() - start

    # -- jobs ---------------------------------------------------------------------------------

    def do_look(self) -> None:
        """The light probe, and what follows from a change."""
        noted = self.notes.take()
        start = time.monotonic()
        self._watch_again_if_moved()
        changed = self._probe.changed() | noted
        self.took["look"] = time.monotonic() - start
        if changed:
            for name in changed:
                self._try_again.pop(_key_of(name), None)
            self.watcher.follow(sorted(changed)[-8:])
            self._survey()
        self._normalize_when_quiet()

    def do_probe(self) -> None:
        """The full probe: finds what the light one cannot see."""
        self._survey()

    def do_use(self) -> None:
        self.state.counts.uses += self._uses.look(self.cache.index, time.time())

    def do_floor(self) -> None:
        """React within seconds when the disk falls below the floor."""
        floor = self.settings.cache.keep_free
        if floor is None or not os.path.isdir(self.root):
            return
        if shutil.disk_usage(self.root).free >= floor:
            return
        self._empty_trash_down_to(floor)
        if shutil.disk_usage(self.root).free < floor:
            self._prune(Policy.from_settings(self.settings.cache))
            self._empty_trash_down_to(floor)

    def do_prune(self) -> None:
        """The rules that time makes true: unused for, older than."""
        self._prune(Policy.from_settings(self.settings.cache))

    def do_tidy(self) -> None:
        """Empty what has been in the trash for longer than its grace period."""
        grace = self.settings.cache.trash_days * 86400
        old = choose_trash(self.cache, older_than=grace)
        if old:
            self.state.counts.freed += empty_trash(self.cache, [entry.id for entry in old])

    def do_config(self) -> None:
        """Follow the configuration file; a broken one changes nothing and is told in status."""
        stamp = self._stamp_of_config()
        if stamp == self._config_stamp:
            return
        self._config_stamp = stamp
        try:
            found = self._load()
        except ConfigError as error:
            log.error("The configuration stays as it was: %s", error)
            self.state = replace(self.state, config_error=str(error))
            return
        # The root is what this process is for; another one needs another process.
        self.settings = found._replace(cache_root=self.settings.cache_root)
        self.cache.settings = self.settings
        self.state = replace(self.state, config_error="")
        self._prune_after = 0.0
        log.info("The configuration was read again.")
        self.do_prune()

    # -- what they are made of ------------------------------------------------------------------

    def _survey(self) -> None:
        """Bring the index up to date, then see to the budget and the casings."""
        found = self.cache.survey()
        self.state.counts.surveys += 1
        size = physical(found.summaries, found.store)
        if found.read or size != self.state.size_on_disk:
            self.state = replace(
                self.state, repos=len({_key(s) for s in found.summaries}), size_on_disk=size,
                last_change=time.time(),
            )  # fmt: skip
        for key in _split_casings(found.summaries):
            self._try_again.setdefault(key, 0.0)
        for key in self._try_again.keys() - _split_casings(found.summaries):
            del self._try_again[key]
        restored = sum(bool(commit) for row in self.cache.records().restored.values()
                       for commit in row)  # fmt: skip
        trash = sum(entry.bytes for entry in trash_entries(self.cache))
        self.state = replace(self.state, restored=restored, trash=trash)
        limit = self.settings.cache.max_size
        if limit is not None and size > limit:
            self._prune(Policy.from_settings(self.settings.cache))

    def _normalize_when_quiet(self) -> None:
        """Make new casings find one copy, once nothing is being downloaded into them."""
        to = self.settings.cache.normalize
        now = time.monotonic()
        if to == "off":
            return
        for key, after in list(self._try_again.items()):
            if now < after or not self._is_quiet(key):
                continue
            self._try_again[key] = now + _RETRY
            canonical = self.cache.index.canonical().get(key)
            plan = plan_normalize(
                self.cache, NormalizeRequest(to=to, only=key), lambda *_, c=canonical: c
            )
            if plan.work:
                done = apply_normalize(self.cache, plan)
                self.state.counts.normalized += len(done.done)
                for name in done.done:
                    log.info("Normalized %s to %s, %d bytes saved.", name, to, done.saved)
            elif not any(group.skipped for group in plan.groups):
                self._try_again[key] = float("inf")  # until the folders change again

    def _is_quiet(self, key: str) -> bool:
        names = [name for name in self._probe.names if _key_of(name) == key]
        newest = max((last_written(self.root, name) for name in names), default=0.0)
        if 0 <= time.time() - newest < QUIET_SECONDS + 0.5:
            return False
        return not busy_folders(self.root, names)

    def _prune(self, policy: Policy) -> None:
        now = time.monotonic()
        if policy.is_empty or now < self._prune_after or not os.path.isdir(self.root):
            return
        plan = plan_prune(self.cache, policy)
        if plan.remove:
            done = apply_prune(self.cache, plan)
            self.state.counts.pruned += len(plan.remove)
            self.state.counts.freed += done.freed
            for gone in plan.remove:
                log.info("Pruned %s %s: %s", gone.item.repo_id, gone.item.commit, gone.reason)
            self.state = replace(self.state, last_prune=time.time())
        self.state = replace(self.state, short=plan.short)
        if plan.short or not plan.remove:
            self._prune_after = now + _RETRY  # what protects the rest does not go in a second

    def _empty_trash_down_to(self, floor: int) -> None:
        """Under the floor the grace period ends early, oldest first: the disk is what is short."""
        for entry in trash_entries(self.cache):
            if shutil.disk_usage(self.root).free >= floor:
                return
            self.state.counts.freed += empty_trash(self.cache, [entry.id])
            log.warning("Below the free-space floor: emptied %s from the trash.", entry.summary)

    def _watch_again_if_moved(self) -> None:
        """The root was deleted, made, or made again: watches stay with the old folder."""
        identity = self._probe.identity
        if identity == self._identity:
            return
        self._identity = identity
        self.watcher.stop()
        self.watcher.start()
        log.warning("The cache root %s was %s.", self.root, "made" if identity else "removed")

    def read_config_again(self) -> None:
        """At the next beat, whatever the file's time says."""
        self._config_stamp = None
        self.notes.wake.set()

    def _stamp_of_config(self) -> tuple[int, int, int] | None:
        try:
            status = Path(config_path(os.environ)).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def status(self) -> dict[str, Any]:
        """What `mdl daemon status --json` prints about a running daemon."""
        state, mode = self.state, self.watcher.mode
        return {
            "root": self.root,
            "mode": mode.kind,
            "why": mode.why,
            "watched": self.watcher.active + (mode.kind == "watching"),
            "repos": state.repos,
            "size_on_disk": state.size_on_disk,
            "max_size": self.settings.cache.max_size,
            "keep_free": self.settings.cache.keep_free,
            "unused_for": self.settings.cache.unused_for,
            "normalize": self.settings.cache.normalize,
            "short": state.short,
            "restored": state.restored,
            "undo_days": self.settings.cache.undo_days,
            "started": self.started,
            "last_change": state.last_change,
            "last_prune": state.last_prune,
            "trash": state.trash,
            "trash_days": self.settings.cache.trash_days,
            "last_error": state.last_error or None,
            "config_error": state.config_error or None,
            "done": vars(state.counts),
        }


def _key_of(name: str) -> str:
    parsed = parse_folder(name)
    return repo_key(*parsed) if parsed else ""


def _key(summary: Summary) -> str:
    return _key_of(summary.name)


def _split_casings(summaries: list[Summary]) -> set[str]:
    """Keys of repositories with more than one real folder."""
    count: dict[str, int] = {}
    for summary in summaries:
        if summary.alias_of is None:
            key = _key(summary)
            count[key] = count.get(key, 0) + 1
    return {key for key, number in count.items() if number > 1}
