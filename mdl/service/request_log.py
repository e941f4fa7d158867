"""The service's log: a JSON line for each request, and warnings, written by a thread of its own.

No secret is in it: never a header, never a query string.
"""

import json
import logging
import os
import select
import threading
import time
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Any

_STANDARD_ERROR = 2
_MOST_WAITING = 50_000
_CLOSES_WITHIN = 1.0  # seconds
_requests = logging.getLogger("mdl.service.request")


def log_request(**fields: Any) -> None:
    """One request's line; never waits."""
    if _requests.isEnabledFor(logging.INFO):
        _requests.info(json.dumps({"at": round(time.time(), 3), **fields}))


class LogWriter:
    """Collects the log records of this process and writes them in a thread.

    A reader of standard error that stops reading delays no response: beyond 50,000 waiting
    records further ones are dropped, and their number is logged later.
    """

    def __init__(self, descriptor: int = _STANDARD_ERROR) -> None:
        self.handler = _BoundedQueueHandler(SimpleQueue())
        self._listener = QueueListener(self.handler.queue, _DescriptorHandler(descriptor))

    def start(self, *, requests: bool) -> None:
        """Take over Python's logging: everyone's warnings, our own information."""
        logging.basicConfig(handlers=[self.handler], level=logging.WARNING)
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        logging.getLogger("mdl.service").setLevel(logging.INFO)
        _requests.setLevel(logging.INFO if requests else logging.WARNING)
        self._listener.start()

    def close(self) -> None:
        """Write what is waiting, as far as it is read within a second."""
        closing = threading.Thread(target=self._listener.stop, daemon=True)
        closing.start()
        closing.join(_CLOSES_WITHIN)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out a connection that was broken off on purpose: its request's line says so."""
    error = record.exc_info[1] if record.exc_info else None
    return not (
        isinstance(error, ConnectionAbortedError) and isinstance(error.__cause__, ConnectionError)
    )


class _BoundedQueueHandler(QueueHandler):
    """Never blocks: drops records beyond the limit, and counts them."""

    queue: "SimpleQueue[Any]"

    def __init__(self, queue: "SimpleQueue[Any]") -> None:
        super().__init__(queue)
        self.setFormatter(_Formatter("%(levelname)s %(name)s: %(message)s"))
        self._dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        if self.queue.qsize() >= _MOST_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            count, self._dropped = self._dropped, 0
            lost = json.dumps({"at": round(time.time(), 3), "lost": count})
            self.queue.put(logging.makeLogRecord({"msg": lost}))
        self.queue.put(record)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if record.name == _requests.name else super().format(record)


class _DescriptorHandler(logging.Handler):
    """Writes whole lines, also to a pipe whose owner made it non-blocking."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        data = memoryview(f"{record.msg}\n".encode(errors="backslashreplace"))
        try:
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    select.select((), (self._descriptor,), ())
        except OSError:
            pass  # the reader is gone
