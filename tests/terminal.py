"""A command in a terminal of its own, in which Ctrl-C and Ctrl-D are keys."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType


class TerminalProcess:
    """Runs a command; `shown` is all that its terminal has shown."""

    def __init__(self, words: Sequence[str], env: dict[str, str], columns: int = 100) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.shown = ""
        self._seen = 0
        self.process = subprocess.Popen(
            words, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)

    def __enter__(self) -> "TerminalProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        self.type("\x03")

    def expect(self, pattern: str, seconds: float = 60.0) -> str:
        """Read on until `pattern` is shown behind what was expected last; returns what it matched.

        Raises:
            AssertionError: it is not shown in time, or the command ends first.
        """
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.shown[self._seen :])) is None:
            assert self._read(end - time.monotonic()), f"{pattern!r} is not in {self.shown!r}"
        self._seen += found.end()
        return found[0]

    def end(self, seconds: float = 60.0) -> int:
        """Read until the command ends; returns its exit code."""
        end = time.monotonic() + seconds
        while self._read(end - time.monotonic()):
            pass
        return self.process.wait(max(0.1, end - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        """Read a piece; False at the end or when the time is up."""
        if not select.select([self._ours], [], [], max(0.0, seconds))[0]:
            return False
        with contextlib.suppress(OSError):  # how a terminal says that nobody is left
            part = os.read(self._ours, 65536).decode(errors="replace")
            self.shown += part.replace("\r\n", "\n")
            return bool(part)
        return False


def _take_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
