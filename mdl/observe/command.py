"""`mdl run`: a command, watched from its start to its end."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mdl.errors import MdlError, NotFoundError
from mdl.observe.session import Ended, Requirements, Session
from mdl.observe.supervise import Command, Ending
from mdl.settings import Settings, load_settings

if TYPE_CHECKING:
    from threading import Thread

    from mdl.observe.report import RunReport

_PREPARES_AFTER = 0.3  # seconds: shorter runs are not disturbed by it
_GRACE = 10.0  # seconds between SIGTERM and SIGKILL
_CHECKS = 0.1  # seconds between two looks for unexpected weights


class Output(NamedTuple):
    """What becomes of the report: a file, and what is said on standard error."""

    report: str | None = None
    as_json: bool = False
    quiet: bool = False


def run_command(
    words: Sequence[str], required: Requirements, output: Output, folders: Sequence[str] = ()
) -> int:
    """Run a command and say what it opened.

    Args:
        words: the command.
        required: what it is held to.
        output: what to do with the report.
        folders: folders of models to watch besides the caches.

    Returns:
        The command's own exit code, or 6 where it did not open what was expected. A command that
        was ended by a signal ends this process in the same way.

    Raises:
        MdlError: it was not started: not found, not whole offline, cannot be watched.
    """
    settings = load_settings()
    if output.report is not None:
        from mdl.observe.report import check_writable

        check_writable(output.report)
    for folder in folders:
        if not os.path.isdir(folder):
            raise NotFoundError(f"{folder} is not a folder.", next="Pass the folder to watch.")
    if required.offline and required.lock is not None:
        from mdl.observe.offline import refuse_incomplete

        refuse_incomplete(required.locked, required.lock, settings)
    session = open_session(settings, required, words, folders)
    try:
        command = Command(words, session.environment)
    except BaseException:
        session.close()
        raise
    run = _Run(session, command)
    ending = run.wait()
    report = session.report(_ended(ending))
    return _conclude(report, ending, output, settings)


def open_session(
    settings: Settings,
    required: Requirements,
    words: Sequence[str] = (),
    folders: Sequence[str] = (),
) -> Session:
    """Begin to watch.

    Raises:
        MdlError: this system cannot be watched.
    """
    try:
        return Session(settings, required, os.environ, words, folders)
    except OSError as error:
        raise MdlError(
            "The run cannot be watched.",
            why=f"inotify: {error.strerror or error}",
            next="See fs.inotify.max_user_instances (sysctl); nothing was started.",
        ) from error


class _Run:
    """A session beside its command."""

    def __init__(self, session: Session, command: Command) -> None:
        self._session = session
        self._command = command
        self._kill_at: float | None = None
        self._check_at = 0.0
        self._unchecked = False
        session.processes.first = command.pid
        self._prepare_at = time.monotonic() + _PREPARES_AFTER
        self._preparation: Thread | None = None

    def wait(self) -> Ending:
        session = self._session
        fds = (session.observer.fd, session.inbox.fd)
        ending = self._command.wait(fds, self._due, self._serve)
        if self._preparation is not None:
            self._preparation.join()
        return ending

    def _due(self) -> float:
        times = [self._session.observer.wait()]
        if self._unchecked:
            times.append(self._check_at - time.monotonic())
        if self._kill_at is not None:
            times.append(self._kill_at - time.monotonic())
        return max(0.0, min(times))

    def _serve(self) -> None:
        now = time.monotonic()
        opened = self._session.observer.seen.files
        if opened and self._preparation is None and now >= self._prepare_at:
            import threading

            self._preparation = threading.Thread(target=self._session.prepare, daemon=True)
            self._preparation.start()
        self._unchecked |= self._session.serve() and self._session.required.fail_fast
        if self._unchecked and not self._session.stopped and now >= self._check_at:
            self._unchecked = False
            self._check_at = now + _CHECKS
            if self._session.violated():
                self._session.stopped = True
                self._kill_at = now + _GRACE
                self._send(signal.SIGTERM)
        elif self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + _GRACE
            self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        for pid in self._session.processes.members():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def _ended(ending: Ending) -> Ended:
    name = None
    if ending.signal is not None:
        known = ending.signal in signal.valid_signals()
        name = signal.Signals(ending.signal).name if known else str(ending.signal)
    return Ended(ending.as_shell, name)


def _conclude(report: "RunReport", ending: Ending, output: Output, settings: Settings) -> int:
    """Write and say the report, and end as the command or the verdict says."""
    from mdl.observe.compose import record
    from mdl.observe.verdict import error_of

    error = error_of(report)
    if ending.signal is not None and not report.unexpected and not report.stopped:
        error = None  # it was interrupted: what was not opened yet proves nothing
    record(report, settings)
    failure: MdlError | None = None
    if output.report is not None:
        try:
            report.save(output.report)
        except MdlError as refused:
            failure = refused
    with contextlib.suppress(OSError, ValueError):
        _say(report, [each for each in (error, failure) if each], output)
    if error is not None:
        return error.exit_code
    if failure is not None and ending.code == 0:
        return failure.exit_code
    return ending.repeat()


def _say(report: "RunReport", errors: Sequence[MdlError], output: Output) -> None:
    if output.as_json:
        import json

        body = {**report.to_json(), **({"error": errors[0].to_json()} if errors else {})}
        print(json.dumps(body, indent=2), file=sys.stderr)
    else:
        lines = [] if output.quiet and not errors else report.summary()
        lines += [f"error: {error}" for error in errors]
        if lines:
            print("\n".join(lines), file=sys.stderr)
    sys.stderr.flush()
