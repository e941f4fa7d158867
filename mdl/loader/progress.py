"""Progress of a load: its phases and their times, the bytes of a download, and a way to stop it."""

import contextlib
import logging
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any


class Cancelled(Exception):
    """Raised in a download's threads to stop them."""


class Progress:
    """Adds up the bytes of all files of a download. This base class shows nothing.

    Args:
        report: called with the number of bytes that just arrived (negative for bytes discarded).
    """

    def __init__(self, report: Callable[[int], None] | None = None) -> None:
        self.bytes = 0
        self._report = self._report_skipped = report
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def phase(self, name: str) -> None:
        """A phase starts; an empty name: it ended."""

    @contextlib.contextmanager
    def downloading(self, total: int) -> Iterator[None]:
        """Wraps a download of `total` bytes."""
        yield

    def advance(self, count: int) -> None:
        """Add bytes that arrived.

        Raises:
            Cancelled: the download is being stopped.
        """
        self._add(count, self._report)

    def skip(self, count: int) -> None:
        """Add bytes that are here already; negative where they are not after all.

        Raises:
            Cancelled: the download is being stopped.
        """
        self._add(count, self._report_skipped)

    def _add(self, count: int, report: Callable[[int], None] | None) -> None:
        if self._stop.is_set():
            raise Cancelled
        with self._lock:
            self.bytes += count
            if report is not None:
                report(count)

    @contextlib.contextmanager
    def tracking_connections(self) -> Iterator[None]:
        """Track the connections huggingface_hub opens, so that `cancel` can shut them down."""
        from huggingface_hub import get_session

        client = get_session()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [*hooks["response"], self._connected]}
        try:
            yield
        finally:
            client.event_hooks = hooks

    def _connected(self, response: Any) -> None:
        if self._stop.is_set():
            raise Cancelled
        stream = response.extensions.get("network_stream")
        connection = stream.get_extra_info("socket") if stream is not None else None
        if connection is not None:
            self._sockets.add(connection)

    def cancel(self) -> None:
        """Stop all files of the download at once, those waiting for bytes too."""
        self._stop.set()
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def bar_class(self) -> type:
        """A stand-in for tqdm: huggingface_hub makes one a file, and each reports here."""
        progress = self

        class FileBar:
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                if kwargs.get("initial"):
                    progress.advance(int(kwargs["initial"]))

            def __enter__(self) -> "FileBar":
                return self

            def __exit__(self, *exception: object) -> None:
                return None

            def update(self, n: float | None = 1) -> None:
                progress.advance(int(n or 0))

            def close(self) -> None:
                return None

            def set_postfix_str(self, postfix: str, refresh: bool = False) -> None:
                return None

        return FileBar


_CLEARED = "\r\033[K"


class _AboveTheLine(logging.Handler):
    """Prints what is logged on a line of its own, not behind the phase or the bar shown there."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{_CLEARED}{self.format(record)}\n")


class TerminalProgress(Progress):
    """One line on standard error: the current phase, or a progress bar during a download."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        log = logging.getLogger("mdl")
        if not log.hasHandlers():
            log.addHandler(_AboveTheLine(logging.WARNING))

    def phase(self, name: str) -> None:
        """Replace the phase shown; an empty name clears the line."""
        text = f"{self._title}: {name} …" if name else ""
        sys.stderr.write(f"{_CLEARED}{text}")
        sys.stderr.flush()

    @contextlib.contextmanager
    def downloading(self, total: int) -> Iterator[None]:
        """Show a bar of `total` bytes."""
        from mdl.loader.progress_bar import ProgressBar

        if not total:
            yield
            return
        with ProgressBar(self._title, total) as bar:
            self._report, self._report_skipped = bar.arrive, bar.update
            try:
                yield
            finally:
                self._report = self._report_skipped = None


def progress_for(title: str, wanted: bool | None = None) -> Progress:
    """Progress shown on the terminal, or silent.

    Args:
        wanted: whether to show it; None: if standard error is a terminal.
    """
    shown = sys.stderr.isatty() if wanted is None else wanted
    return TerminalProgress(title) if shown else Progress()


class PhaseTimer:
    """Seconds spent in each phase, in the order they ran; reports phases to `progress`."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        self._progress.phase(phase)
        try:
            yield
        finally:
            self._progress.phase("")
            spent = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
