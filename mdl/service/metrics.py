"""What Prometheus reads: counters of this process, and gauges read when it asks."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """One replica's metrics. No label is the caller's text, not even an unknown method."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "mdl_requests", "Requests.", ("route", "method", "status"), registry=registry
        )
        self._seconds = Histogram(
            "mdl_request_seconds", "Time to respond.", ("route",), buckets=_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("mdl_requests_in_flight", "Requests under way.", registry=registry)
        self.resolutions = Counter(
            "mdl_resolutions", "Resolved names, by outcome.", ("outcome",), registry=registry
        )
        self.refused_connections = Counter(
            "mdl_refused_connections", "Connections over the limit.", registry=registry
        )

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method if method in _METHODS else "other", status).inc()
        self._seconds.labels(route).observe(seconds)

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """A gauge whose value is read when Prometheus asks."""
        Gauge(name, description, registry=self.registry).set_function(read)
