"""One progress report for a download made of many files: bytes so far, and a way to stop."""

import threading
from collections.abc import Callable
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

    def cancel(self) -> None:
        """Stop every file of the download: at its next bytes, or at once where it waits."""
        from huggingface_hub import close_session

        self._stop.set()
        close_session()

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
