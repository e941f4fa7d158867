"""When work in a thread has to stop: its time is over, or its caller has gone."""

import threading
import time

from mdl.errors import BusyError


class Deadline:
    """Checked by the work itself, between its steps: no thread can be stopped from outside.

    Args:
        seconds: how long the work may take.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    @property
    def is_over(self) -> bool:
        return self._cancelled.is_set() or time.monotonic() >= self._end

    def check(self) -> None:
        """
        Raises:
            BusyError: the work has to stop.
        """
        if self.is_over:
            raise BusyError("There was not enough time.", next="Try again in a moment.")
