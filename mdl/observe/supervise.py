"""Run a command as the shell would have: its streams, terminal, signals and ending untouched.

The command is a child in the same process group, so keys of the terminal and signals to the group
reach it as they would without mdl; only those sent to mdl alone are passed on. When the terminal
stops the command mdl stops too, so that the shell sees a stopped job.
"""

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from mdl.errors import MdlError
from mdl.observe import linux
from mdl.observe.linux import ReceivedSignal, SignalQueue

# These are about mdl itself when they come.
_OWN = {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE,
        signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGTTOU}  # fmt: skip
_TAKEN = signal.valid_signals() - _OWN
_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_NOT_PASSED_ON = {signal.SIGCHLD, signal.SIGPIPE, *_STOPS}
# Python ignores these; a command expects the defaults.
_DEFAULTS = [signal.SIGPIPE, signal.SIGXFSZ]
_TO_THE_GROUP = 0.05  # seconds within which a signal to the group reaches all of it
_NAP = 0.003  # seconds in which events gather: waking up for each slows the command down


class CommandNotFoundError(MdlError):
    """There is no such command; the exit code is a shell's."""

    exit_code = 127
    code = "command_not_found"


class CommandNotRunnableError(MdlError):
    """The command cannot be executed; the exit code is a shell's."""

    exit_code = 126
    code = "command_not_runnable"


class Ending(NamedTuple):
    """How a command ended: its exit code, or the number of the signal that ended it."""

    code: int | None
    signal: int | None

    @property
    def as_shell(self) -> int:
        """The exit code that a shell makes of it."""
        return self.code if self.code is not None else 128 + (self.signal or 0)

    def repeat(self) -> int:
        """Return the command's exit code, or be ended by the signal that ended it."""
        if self.signal is not None:
            import resource

            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has left its own
            with contextlib.suppress(OSError):
                signal.signal(self.signal, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {self.signal})
            os.kill(os.getpid(), self.signal)
        return self.as_shell


class Command:
    """A running command.

    Raises:
        CommandNotFoundError, CommandNotRunnableError: it cannot be started.
    """

    def __init__(self, words: Sequence[str], env: Mapping[str, str]) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
        self._signals = SignalQueue(_TAKEN)
        try:
            if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # else its ending is lost
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.pid = _spawn(words, env, self._mask)
        except BaseException:
            self._restore()
            raise
        self._group = _GroupSignals()

    def wait(
        self, fds: Collection[int], due: Callable[[], float], serve: Callable[[], None]
    ) -> Ending:
        """Wait until the command ends.

        Args:
            fds: file descriptors; `serve` is called when one is readable.
            due: seconds after which it is called anyway.
            serve: what to do meanwhile.
        """
        poll = select.poll()
        for fd in (self._signals.fd, *fds):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(int(due() * 1000) + 1)}
            serve()
            for received in self._signals.read():
                ending = self._handle(received)
                if ending is not None:
                    self._end()
                    return ending
            if ready & set(fds):
                time.sleep(_NAP)

    def _handle(self, received: ReceivedSignal) -> Ending | None:
        if received.number == signal.SIGCHLD:
            return self._reap()
        if (
            received.number not in _NOT_PASSED_ON
            and not received.from_kernel
            and not self._group.received(received.number)
        ):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, received.number)
        return None

    def _reap(self) -> Ending | None:
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return None
            if os.WIFEXITED(status):
                return Ending(os.WEXITSTATUS(status), None)
            if os.WIFSIGNALED(status):
                return Ending(None, os.WTERMSIG(status))
            if os.WIFSTOPPED(status) and os.WSTOPSIG(status) in _STOPS:
                self._stop_too(os.WSTOPSIG(status))

    def _stop_too(self, number: int) -> None:
        """Be stopped by the signal that stopped the command, until somebody continues this."""
        os.kill(os.getpid(), number)
        before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        # It is stopped here.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def _end(self) -> None:
        self._group.close()
        for _ in self._signals.read():  # Ctrl-C ended the command: it is not about the report
            pass
        self._restore()

    def _restore(self) -> None:
        self._signals.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


class _GroupSignals:
    """A process in mdl's group that only reports which signals it gets.

    What it gets as well was sent to the whole group, so the command has it already; passing it on
    would be a second Ctrl-C.
    """

    def __init__(self) -> None:
        self._received: list[tuple[int, float]] = []
        self._to_come: list[int] = []  # what it was seen to have got before it said so
        self._fd, end = os.pipe()
        me = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._listen(me, end)
            finally:
                os._exit(0)
        os.close(end)
        os.set_blocking(self._fd, False)

    @staticmethod
    def _listen(parent: int, end: int) -> None:
        linux.die_with_parent(parent, signal.SIGKILL)
        os.closerange(0, end)
        os.closerange(end + 1, 1 << 16)
        while True:
            os.write(end, bytes([signal.sigwaitinfo(_TAKEN).si_signo]))

    def received(self, number: int) -> bool:
        """Whether the group got this signal just now."""
        until = time.monotonic() + _TO_THE_GROUP
        while True:
            self._read()
            for entry in self._received:
                if entry[0] == number and until - entry[1] < 1.0:
                    self._received.remove(entry)
                    return True
            if self._is_pending(number):  # on a busy machine it has not run since
                self._to_come.append(number)
                return True
            if time.monotonic() > until:
                return False
            select.select([self._fd], [], [], _TO_THE_GROUP)

    def _read(self) -> None:
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._fd, 512):
                if number in self._to_come:
                    self._to_come.remove(number)
                else:
                    self._received.append((number, now))

    def _is_pending(self, number: int) -> bool:
        with contextlib.suppress(OSError), open(f"/proc/{self._pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"ShdPnd:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
        return False

    def close(self) -> None:
        os.close(self._fd)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _spawn(words: Sequence[str], env: Mapping[str, str], mask: Collection[int]) -> int:
    def start(words: Sequence[str]) -> int:
        return os.posix_spawnp(words[0], [*words], env, setsigmask=mask, setsigdef=_DEFAULTS)

    try:
        try:
            return start(words)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without `#!`: as shells run it.
            return start(["/bin/sh", _find(words[0]) or words[0], *words[1:]])
    except OSError as error:
        if error.errno == errno.ENOENT and _find(words[0]) is None:
            raise CommandNotFoundError(
                f"There is no command {words[0]!r}.",
                next="Check its spelling and PATH; the command follows `--`, as it is typed alone.",
            ) from error
        raise CommandNotRunnableError(
            f"{words[0]} cannot be run.",
            why=error.strerror or str(error),
            next="Check its permissions, and the interpreter that its first line names.",
        ) from error


def _find(word: str) -> str | None:
    if "/" in word:
        return word if os.path.exists(word) else None
    for folder in os.get_exec_path():
        if os.path.isfile(f"{folder}/{word}"):
            return f"{folder}/{word}"
    return None
