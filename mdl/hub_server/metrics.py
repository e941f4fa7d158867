"""What Prometheus reads of the Hub's side."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class HubMetrics:
    """Counters of one process."""

    def __init__(self, registry: CollectorRegistry, filling: Callable[[], int]) -> None:
        def counter(name: str, what: str) -> Counter:
            return Counter(f"mdl_hub_{name}", what, registry=registry)

        self.hits = counter("hits", "Files served from the cache.")
        self.fills = counter("fills", "Downloads begun.")
        self.failures = counter("failures", "Downloads that failed.")
        self.joins = counter("joins", "Requests that joined a download under way.")
        self.refusals = counter("refusals", "Requests refused.")
        self.bytes_in = counter("bytes_in", "Bytes downloaded.")
        self.bytes_out = counter("bytes_out", "Bytes of files sent.")
        self.upstream = Histogram(
            "mdl_hub_upstream_seconds", "Time of a request upstream.", registry=registry
        )
        self.upstream_failures = counter("upstream_failures", "Requests upstream that failed.")
        Gauge("mdl_hub_filling", "Downloads under way.", registry=registry).set_function(filling)
