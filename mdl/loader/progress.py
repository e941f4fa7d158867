"""One progress report for a download made of many files: bytes so far, and a way to stop."""

import contextlib
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any


class Cancelled(Exception):
    """Raised inside a download's thread when the whole is being stopped."""


class Progress:
    """Counts the bytes of all files together and passes each step on.

    Args:
        report: called with the bytes that just arrived (negative when some are thrown away).
    """

    def __init__(self, report: Callable[[int], None] | None = None) -> None:
        self.bytes = 0
        self._report = report
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def phase(self, name: str) -> None:
        """Say what is being done now; nothing here."""

    @contextlib.contextmanager
    def fetching(self, total: int) -> Iterator[None]:
        """Around a download of `total` bytes; nothing here."""
        yield

    def advance(self, count: int) -> None:
        """Count bytes that arrived.

        Raises:
            Cancelled: the download is being stopped.
        """
        if self._stop.is_set():
            raise Cancelled
        with self._lock:
            self.bytes += count
            if self._report is not None:
                self._report(count)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Know the connections that huggingface_hub opens meanwhile, so `cancel` can end them."""
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
        """Stop every file of the download: those that wait for bytes are cut off at once."""
        self._stop.set()
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def bar_class(self) -> type:
        """A class that huggingface_hub takes for tqdm: each file's bar feeds this object."""
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


class TerminalProgress(Progress):
    """One line on standard error: the phase, and a bar of bytes while there is a download."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    def phase(self, name: str) -> None:
        """Show the phase in place of the last one; an empty name clears the line."""
        text = f"{self._title}: {name} …" if name else ""
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()

    @contextlib.contextmanager
    def fetching(self, total: int) -> Iterator[None]:
        """Show a bar of `total` bytes."""
        from tqdm import tqdm

        if not total:
            yield
            return
        with tqdm(desc=self._title, total=total, unit="B", unit_scale=True, file=sys.stderr) as bar:
            self._report = bar.update
            try:
                yield
            finally:
                self._report = None


def progress_for(title: str, wanted: bool | None = None) -> Progress:
    """Progress on the terminal where there is one, or where it is asked for; else silence.

    Args:
        wanted: True and False decide; None asks whether standard error is a terminal.
    """
    shown = sys.stderr.isatty() if wanted is None else wanted
    return TerminalProgress(title) if shown else Progress()
