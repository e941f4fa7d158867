"""One JSON line a request, without a secret in it: never a header, never a query string."""

import json
import sys
import threading
import time

from mdl.service.exchange import Exchange, Scope

_HELD = 200


class RequestLog:
    """Lines are gathered and written together: one write a second instead of one a request."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def write(self, exchange: Exchange, scope: Scope, route: str, seconds: float) -> None:
        if not self._enabled:
            return
        client = scope.get("client")
        # Written out by hand: everything but the name is ours and needs no escaping.
        about = ""
        if exchange.about:
            about = (
                f', "name": {json.dumps(exchange.about)}, "answer": {json.dumps(exchange.answer)}'
            )
        self._lines.append(
            f'{{"at": {time.time():.3f}, "request": "{exchange.request_id}",'
            f' "client": "{client[0] if client else "-"}", "role": "{exchange.role}",'
            f' "method": {json.dumps(scope["method"])}, "route": "{route}",'
            f' "status": {exchange.status}, "ms": {seconds * 1000:.2f}{about}}}'
        )
        if len(self._lines) >= _HELD:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        if lines:
            sys.stderr.write("\n".join(lines) + "\n")
            sys.stderr.flush()
