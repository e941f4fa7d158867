"""Time interleaved contenders on a device, with a cold second-level cache."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_FLUSH_BYTES = 1 << 29
"""Written before every timed call: far more than any L2, and long enough (over 0.1 ms) that the
host has queued the call before the device reaches it."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one contender; `error` says why there are none."""

    median_ms: float | None
    best_ms: float | None = None
    rounds: int = 0
    error: str = ""


class Clock:
    """Measures callables on one device; on the CPU by wall clock and without the flush."""

    def __init__(self, device: torch.device, rounds: int = 30) -> None:
        self.device, self.rounds = device, rounds
        self._flush = _flush_buffer(device) if device.type == "cuda" else None

    def interleaved(self, contenders: Mapping[str, Callable[[], Any]]) -> dict[str, Timing]:
        """Median time of each contender, called in turn so that drift hits all alike."""
        found: dict[str, list[float]] = {}
        errors: dict[str, str] = {}
        for name, function in contenders.items():
            try:
                for _ in range(3):  # compiles and warms up
                    function()
                self._wait()
                found[name] = []
            except Exception as error:  # another library's failure is a result, not ours
                errors[name] = f"{type(error).__name__}: {str(error)[:300]}"
        for _ in range(self.rounds):
            for name, times in found.items():
                times.append(self._once(contenders[name]))
        timings = {name: Timing(None, error=text) for name, text in errors.items()}
        for name, times in found.items():
            timings[name] = Timing(
                round(statistics.median(times), 5), round(min(times), 5), len(times)
            )
        return timings

    def _once(self, function: Callable[[], Any]) -> float:
        if self._flush is None:
            started = time.perf_counter()
            function()
            return (time.perf_counter() - started) * 1e3
        make_event: Any = torch.cuda.Event
        begin, end = (make_event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        begin.record()
        function()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    def _wait(self) -> None:
        if self._flush is not None:
            torch.cuda.synchronize(self.device)


def _flush_buffer(device: torch.device) -> torch.Tensor:
    free = torch.cuda.mem_get_info(device)[0]  # beside a model there may be little
    return torch.empty(min(_FLUSH_BYTES, free // 4), dtype=torch.uint8, device=device)


def copy_bytes_per_second(clock: Clock, count: int) -> float:
    """What a copy of `count` bytes reaches, reads and writes counted."""
    source = torch.empty(count, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    timing = clock.interleaved({"copy": lambda: target.copy_(source)})["copy"]
    assert timing.median_ms is not None
    return 2 * count / (timing.median_ms / 1e3)


def matmul_flops_per_second(clock: Clock, size: int) -> float:
    """What a square bfloat16 matrix product of `size` reaches."""
    a, b = (torch.randn(size, size, device=clock.device, dtype=torch.bfloat16) for _ in range(2))
    timing = clock.interleaved({"matmul": lambda: a @ b})["matmul"]
    assert timing.median_ms is not None
    return 2 * size**3 / (timing.median_ms / 1e3)
