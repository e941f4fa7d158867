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
        line = {
            "at": round(time.time(), 3),
            "request": exchange.request_id,
            "client": client[0] if client else None,
            "role": exchange.role,
            "method": scope["method"],
            "route": route,
            "status": exchange.status,
            "ms": round(seconds * 1000, 2),
        }
        if exchange.about:
            line |= {"name": exchange.about, "answer": exchange.answer}
        self._lines.append(json.dumps(line))
        if len(self._lines) >= _HELD:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        if lines:
            sys.stderr.write("\n".join(lines) + "\n")
            sys.stderr.flush()
