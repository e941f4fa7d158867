"""`mdl.watch()`: a part of this program, watched from within."""

import os
import select
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from mdl.observe.command import open_session
from mdl.observe.hook import Hook, Sender
from mdl.observe.messages import Message
from mdl.observe.processes import MARK, command_line
from mdl.observe.session import Ended, read_requirements
from mdl.settings import Settings, load_settings

if TYPE_CHECKING:
    from mdl.errors import MdlError
    from mdl.observe.report import RunReport

_NAP = 0.003
_CHANGED = (MARK, "PYTHONPATH")


class Watch:
    """A part of a program that is watched; what `mdl.watch` returns.

    Attributes:
        report: what was opened, after the part has ended.
        error: why that is not what was expected; `None` where it is.
    """

    report: "RunReport"
    error: "MdlError | None" = None

    def __init__(
        self,
        expect: Iterable[str] | str = (),
        *,
        locked: str | os.PathLike[str] | None = None,
        report: str | os.PathLike[str] | None = None,
        folders: Iterable[str | os.PathLike[str]] = (),
        settings: Settings | None = None,
    ) -> None:
        texts = (expect,) if isinstance(expect, str) else tuple(expect)
        self._wanted = read_requirements(texts, None if locked is None else os.fspath(locked))
        self._path = None if report is None else os.fspath(report)
        self._folders = [os.fspath(folder) for folder in folders]
        self._settings = load_settings() if settings is None else settings
        self._lock = threading.RLock()
        self._stop, self._stop_end = -1, -1

    def __enter__(self) -> "Watch":
        self._session = open_session(self._settings, self._wanted, (), self._folders)
        self._session.processes.first = os.getpid()
        self._session.observer.ignore(self._session.processes.open_now())
        self._before = {name: os.environ.get(name) for name in _CHANGED}
        for name in _CHANGED:  # for the processes that are started meanwhile
            os.environ[name] = self._session.environment[name]
        self._stop, self._stop_end = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="mdl.watch", daemon=True)
        self._thread.start()
        _listeners.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _listeners.remove(self)
        os.close(self._stop_end)
        self._thread.join()
        os.close(self._stop)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        from mdl.observe.compose import record
        from mdl.observe.verdict import error_of

        self.report = self._session.report(Ended())
        self.error = error_of(self.report)
        record(self.report, self._settings)
        if self._path is not None:
            self.report.save(self._path)
        if self.error is not None and error is None:
            raise self.error

    def receive(self, kind: str, *fields: str) -> None:
        """Take in what the hook reports of this process."""
        message = Message(kind, time.time(), os.getpid(), command_line(os.getpid()), fields)
        with self._lock:
            self._session.observer.receive(message)

    @property
    def is_served_here(self) -> bool:
        """Whether it is the watch itself that runs now: what it opens the program did not."""
        return threading.current_thread() is self._thread

    @property
    def folder(self) -> str:
        return self._session.inbox.path

    def _serve(self) -> None:
        observer, inbox = self._session.observer, self._session.inbox
        poll = select.poll()
        for fd in (observer.fd, inbox.fd, self._stop):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(int(observer.wait() * 1000) + 1)}
            if self._stop in ready:
                return
            with self._lock:
                self._session.serve()
            time.sleep(_NAP if ready else 0)


class _Listeners:
    """The one hook of this process, and who listens to it: an audit hook cannot be removed."""

    def __init__(self) -> None:
        self._watches: list[Watch] = []
        self._process = 0
        self._hook: Hook | None = None

    def add(self, watch: Watch) -> None:
        self._watches.append(watch)
        self._process = os.getpid()
        if self._hook is None:
            self._hook = Hook(self._tell, [])
            self._hook.install()
        self._hook.listen()

    def remove(self, watch: Watch) -> None:
        self._watches.remove(watch)
        if not self._watches and self._hook is not None:
            self._hook.silence()

    def _tell(self, kind: str, *fields: str, wait: bool = False) -> None:
        if any(watch.is_served_here for watch in self._watches):
            return
        if os.getpid() != self._process:  # a fork, as of a data loader
            Sender([watch.folder for watch in self._watches]).send(kind, *fields, wait=wait)
            return
        for watch in list(self._watches):
            watch.receive(kind, *fields)


_listeners = _Listeners()


def watch(
    expect: Iterable[str] | str = (),
    *,
    locked: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    folders: Iterable[str | os.PathLike[str]] = (),
    settings: Settings | None = None,
) -> Watch:
    """Watch which models a part of this program and the processes it starts really open.

    >>> import mdl
    >>> from transformers import AutoModelForCausalLM
    >>> with mdl.watch(expect="Qwen/Qwen2.5-0.5B-Instruct=exact") as watched:
    ...     model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct")
    >>> watched.report.loads[0].commit

    Args:
        expect: what is to be opened, and no other weights: `NAME[=FORMAT][@REVISION]`.
        locked: a lock file; nothing is to be opened that it does not name.
        report: a file to write the report to.
        folders: folders of models to watch besides the caches.
        settings: other settings than the environment's.

    Raises:
        NotFoundError, UsageError: an expectation or the lock file cannot be read.
        VerificationError: at the end of the part, where it did not open what was expected; an
            exception of the part itself comes first.
        MdlError: this system cannot be watched.
    """
    return Watch(expect, locked=locked, report=report, folders=folders, settings=settings)
