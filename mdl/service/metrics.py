"""Counters in Prometheus' text format, without its library: they are a dictionary."""

from collections import Counter
from collections.abc import Iterable

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What a replica counted since it started. No label is the caller's text: not even a method."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.answers: Counter[str] = Counter()
        self.refused_connections = 0
        self.straight = 0
        self.in_flight = 0
        self._seconds: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        self.requests[route, method if method in _METHODS else "other", status] += 1
        buckets = self._seconds.get(route)
        if buckets is None:
            buckets = self._seconds[route] = [0] * (len(BUCKETS) + 1)
        place = 0
        for bound in BUCKETS:
            if seconds <= bound:
                break
            place += 1
        buckets[place] += 1
        self._sums[route] = self._sums.get(route, 0.0) + seconds

    def text(self, gauges: Iterable[tuple[str, str, float]]) -> str:
        """All of it; `gauges` are (name, help, value) read at this moment."""
        lines = _head("mdl_requests_total", "counter", "Requests answered.")
        for (route, method, status), count in sorted(self.requests.items()):
            labels = f'route="{route}",method="{method}",status="{status}"'
            lines.append(f"mdl_requests_total{{{labels}}} {count}")
        lines += _head("mdl_request_seconds", "histogram", "Time to answer, by route.")
        for route, buckets in sorted(self._seconds.items()):
            total = 0
            for bound, count in zip((*BUCKETS, "+Inf"), buckets, strict=True):
                total += count
                lines.append(f'mdl_request_seconds_bucket{{route="{route}",le="{bound}"}} {total}')
            lines.append(f'mdl_request_seconds_sum{{route="{route}"}} {self._sums[route]:.6f}')
            lines.append(f'mdl_request_seconds_count{{route="{route}"}} {total}')
        lines += _head("mdl_resolutions_total", "counter", "Names answered, by outcome.")
        for outcome, count in sorted(self.answers.items()):
            lines.append(f'mdl_resolutions_total{{outcome="{outcome}"}} {count}')
        for name, help_text, value in (
            ("mdl_refused_connections", "Connections over the limit.", self.refused_connections),
            ("mdl_straight_answers", "Requests answered where they arrived.", self.straight),
            ("mdl_requests_in_flight", "Requests being answered.", self.in_flight),
            *gauges,
        ):
            lines += [*_head(name, "gauge", help_text), f"{name} {value:.15g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, help_text: str) -> list[str]:
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
