"""One watched run, from the first watch to the report; `mdl run` and `mdl.watch` share it."""

import contextlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mdl.observe.hook import cache_roots
from mdl.observe.messages import Inbox
from mdl.observe.observer import Observer
from mdl.observe.processes import RunProcesses, without_tokens
from mdl.settings import Settings

if TYPE_CHECKING:
    from mdl.observe.expectation import Expectation
    from mdl.observe.report import RunReport
    from mdl.resolver import LockEntry

_MODELS = (".gguf", ".safetensors")
_A_MOMENT = 0.05  # seconds
# What keeps Hugging Face's libraries from opening a socket.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "DIFFUSERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
}


class Requirements(NamedTuple):
    """What a run is held to. `locked` are the entries of the lock file `lock`."""

    expectations: "tuple[Expectation, ...]" = ()
    lock: str | None = None
    locked: "tuple[LockEntry, ...]" = ()
    offline: bool = False
    fail_fast: bool = False

    @property
    def anything(self) -> bool:
        return bool(self.expectations) or self.lock is not None


class Ended(NamedTuple):
    """How the command ended."""

    code: int | None = None
    signal: str | None = None


class Session:
    """Watches from its making to `report`.

    Args:
        settings: where the cache and mdl's own files are.
        required: what the run is held to.
        env: the environment of what is watched.
        words: its command line, where it has one.
        folders: folders of models to watch besides.
    """

    def __init__(
        self,
        settings: Settings,
        required: Requirements,
        env: Mapping[str, str],
        words: Sequence[str] = (),
        folders: Iterable[str] = (),
    ) -> None:
        self.settings = settings
        self.required = required
        self.words = tuple(without_tokens(word) for word in words)
        self.started = time.time()
        self.folder = _here()
        self.stopped = False
        self._changed = False
        roots = [os.fspath(settings.cache_root), *cache_roots(env)]
        self.inbox = Inbox(roots)
        self.processes = RunProcesses(self.inbox.path)
        self.observer = Observer(self.processes, roots)
        for folder in folders:
            self.observer.watcher.add_folder(folder, deep=True)
        for folder in named_folders(words):
            self.observer.watcher.add_folder(folder)
        self.environment = self.inbox.environment(env)
        if required.offline:
            self.environment |= OFFLINE

    def serve(self) -> bool:
        """Take in what happened; whether anything new was opened."""
        changed = self._changed
        self._changed = False
        return self.observer.serve(self.inbox.read()) or changed

    def prepare(self) -> None:
        """Make the report's imports, and the catalogue where there is none, before it is due."""
        from mdl.errors import MdlError
        from mdl.store import open_catalog

        with contextlib.suppress(MdlError, OSError):
            from mdl.observe import compose, verdict  # noqa: F401

            open_catalog(self.settings).database.close()

    def violated(self) -> bool:
        """Whether weights were opened already that are not expected."""
        from mdl.observe.compose import compare, models_of

        loads, folders = models_of(self.observer.seen, self.settings, headers=False)
        read = [*(load.path for load in loads), *(each.path for each in folders)]
        configs = [f"{folder}/config.json" for folder in read]
        self._changed = self.observer.serve(self.inbox.read(), read_here=configs)
        return bool(compare(self.required, loads, folders)[1])

    def report(self, ended: Ended) -> "RunReport":
        """Stop watching, and put the report together."""
        from mdl.observe.compose import compose

        still = self._still_running()
        if still:  # Python's own helpers end just after their program
            time.sleep(_A_MOMENT)
            still = self._still_running()
        self.serve()
        seconds = time.time() - self.started
        self.observer.finish()
        self.inbox.close()
        return compose(self, ended, seconds, still)

    def _still_running(self) -> list[dict[str, Any]]:
        return [
            {"pid": pid, "command": self.processes.command(pid)}
            for pid in self.processes.members()
            if pid != os.getpid()
        ]

    def close(self) -> None:
        """Stop watching without a report."""
        self.observer.watcher.close()
        self.inbox.close()


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted
        return ""


def named_folders(words: Iterable[str]) -> list[str]:
    """Folders of models that a command line names, themselves or by a file in them."""
    found = []
    here = _here()
    for word in words:
        path = os.path.normpath(os.path.join(here, word.partition("=")[2] or word))
        if path.endswith(_MODELS) and os.path.isfile(path):
            found.append(os.path.dirname(os.path.realpath(path)))
        elif os.path.isfile(f"{path}/config.json"):
            found.append(path)
    return found


def read_requirements(
    expect: Iterable[str] = (),
    locked: str | None = None,
    *,
    offline: bool = False,
    fail_fast: bool = False,
) -> Requirements:
    """Read what a run is held to.

    Raises:
        NotFoundError, UsageError: an expectation or the lock file cannot be read, or nothing is
            expected that `fail_fast` could act on.
    """
    from mdl.errors import UsageError

    texts = tuple(expect)
    if fail_fast and not texts and locked is None:
        raise UsageError(
            "Nothing is expected, so nothing is unexpected.",
            next="Add --expect NAME or --locked FILE, or leave out --fail-fast.",
        )
    expectations: tuple[Expectation, ...] = ()
    entries: tuple[LockEntry, ...] = ()
    if texts:
        from mdl.observe.expectation import parse_expectation

        expectations = tuple(parse_expectation(text) for text in texts)
    if locked is not None:
        from pathlib import Path

        from mdl.resolver import read_lock

        entries = tuple(read_lock(Path(locked)))
    return Requirements(expectations, locked, entries, offline, fail_fast)
