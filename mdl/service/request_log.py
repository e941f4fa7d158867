"""What the service says on standard error, written by a thread of its own.

One JSON line a request, without a secret in it: never a header, never a query string; and
between them the warnings of Python's `logging`.
"""

import logging
import os
import select
import threading
import time
from collections import deque
from json.encoder import encode_basestring_ascii as _quoted

from mdl.service.exchange import Told

_STANDARD_ERROR = 2
_EVERY = 1.0
_MOST = 50_000
_ENDS_WITHIN = 1.0


class RequestLog:
    """Lines are gathered, and written once a second by a thread of their own.

    So whoever reads them and stops reading holds up no answer: lines that nobody takes are
    dropped from `_MOST` on, and how many is said later.
    """

    def __init__(self, *, enabled: bool, descriptor: int = _STANDARD_ERROR) -> None:
        self._enabled = enabled
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._lost = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mdl-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is left, as far as somebody takes it within a second."""
        self._closing.set()
        if self._thread.ident is None:
            self._flush()
        else:
            self._thread.join(_ENDS_WITHIN)

    def add(self, line: str) -> None:
        """One line, with its end; never waits."""
        if len(self._lines) >= _MOST:
            self._lost += 1
        else:
            self._lines.append(line)

    def write(self, told: Told, client: str, method: str, route: str, seconds: float) -> None:
        if not self._enabled:
            return
        # Written out by hand: what is not quoted here is ours and needs no escaping.
        about = ""
        if told.about:
            about = f', "name": {_quoted(told.about)}, "answer": {_quoted(told.answer)}'
        self.add(
            f'{{"at": {time.time():.3f}, "request": "{told.request_id}",'
            f' "client": "{client}", "role": "{told.role}",'
            f' "method": {_quoted(method)}, "route": "{route}",'
            f' "status": {told.status}, "ms": {seconds * 1000:.2f}{about}}}\n'
        )

    def _run(self) -> None:
        ending = False
        while not ending:
            ending = self._closing.wait(_EVERY)
            try:
                self._flush()
            except OSError:
                return  # nobody is there to be told

    def _flush(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if self._lost:
            lost, self._lost = self._lost, 0
            lines.append(f'{{"at": {time.time():.3f}, "lost": {lost}}}\n')
        data = memoryview("".join(lines).encode())
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever gave it to us may have made it non-blocking
                select.select((), (self._descriptor,), ())


class LogHandler(logging.Handler):
    """Python's log records as further lines: a handler of its own would wait for the reader."""

    def __init__(self, lines: RequestLog) -> None:
        super().__init__()
        self._to = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._to.add(f"{self.format(record)}\n")
        except Exception:  # logging's contract: what cannot be formatted does not end who logs it
            self.handleError(record)
