"""A download's bar on the terminal: bytes, the speed of the last seconds, and the time left."""

import sys
import threading
import time
from collections import deque
from types import TracebackType
from typing import Any

from tqdm import tqdm

from mdl.formatting import human_size, shorten

_SECONDS = 10.0  # over which the speed is measured
_LONGEST = 100 * 3600  # seconds left beyond which nobody is helped by the number
_BESIDE = len(": 100% || ") + 4  # the bar itself is four columns or more
_NARROWEST = 8  # columns of the title; the numbers say more
_FORMAT = "{desc}: {percentage:3.0f}% |{bar}| {about}"


class ProgressBar(tqdm):  # type: ignore[misc]
    """A bar that also moves, and slows down, while nothing comes.

    `update` adds bytes; `arrive` adds those that came over the network, which are its speed.
    """

    def __init__(self, title: str, total: int) -> None:
        self._came = 0
        self._samples: deque[tuple[float, int]] = deque()
        self._ended = threading.Event()
        super().__init__(desc=title, total=total, bar_format=_FORMAT, file=sys.stderr)
        threading.Thread(target=self._redraw, daemon=True).start()

    def arrive(self, count: int) -> None:
        self._came += count
        self.update(count)

    @property
    def format_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = super().format_dict
        about = [f"{human_size(found['n'])} of {human_size(found['total'])}"]
        if speed := self._speed():
            left = (found["total"] - found["n"]) / speed
            about.append(f"{human_size(speed)}/s")
            if left < _LONGEST:
                about.append(f"{tqdm.format_interval(left)} left")
        text = ", ".join(about)
        room = (found["ncols"] or 80) - len(text) - _BESIDE
        return {**found, "about": text, "prefix": shorten(found["prefix"], max(room, _NARROWEST))}

    def _speed(self) -> float:
        """Bytes a second in the last seconds; 0 where too little is known."""
        now = time.monotonic()
        self._samples.append((now, self._came))
        while now - self._samples[0][0] > _SECONDS:
            self._samples.popleft()
        since, before = self._samples[0]
        return (self._came - before) / (now - since) if now - since > 0.2 else 0.0

    def _redraw(self) -> None:
        while not self._ended.wait(0.5):
            self.refresh()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        super().__exit__(kind, error, trace)
