"""One JSON line a request, without a secret in it: never a header, never a query string."""

import sys
import threading
import time
from json.encoder import encode_basestring_ascii as _quoted

from mdl.service.exchange import Told

_HELD = 200


class RequestLog:
    """Lines are gathered and written together: one write a second instead of one a request."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def write(self, told: Told, client: str, method: str, route: str, seconds: float) -> None:
        if not self._enabled:
            return
        # Written out by hand: what is not quoted here is ours and needs no escaping.
        about = ""
        if told.about:
            about = f', "name": {_quoted(told.about)}, "answer": {_quoted(told.answer)}'
        self._lines.append(
            f'{{"at": {time.time():.3f}, "request": "{told.request_id}",'
            f' "client": "{client}", "role": "{told.role}",'
            f' "method": {_quoted(method)}, "route": "{route}",'
            f' "status": {told.status}, "ms": {seconds * 1000:.2f}{about}}}'
        )
        if len(self._lines) >= _HELD:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        if lines:
            sys.stderr.write("\n".join(lines) + "\n")
            sys.stderr.flush()
