"""What was measured of a kernel, and whether a model gets it: pure functions."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mdl.formatting import counted
from mdl.kernels.swap import Need

NOISE = 0.98
"""A geometric mean of speeds down to this counts as equal."""

SLOWEST = 0.8
"""No single measurement may be slower than this, whatever the mean."""

ERROR_LIMITS = {"bfloat16": 3e-2, "float16": 6e-3, "float32": 2e-4}
"""Largest error of one element, relative to its size plus the root mean square of all."""


@dataclass(frozen=True)
class Limits:
    """Seconds. total: all checks of a load. silence: one check. start: the checking process."""

    total: float = 60.0
    silence: float = 20.0
    start: float = 45.0


@dataclass(frozen=True)
class Measure:
    """A kernel at one number of rows. ms: median milliseconds, None where there are none.

    against: what was timed beside it.
    """

    rows: int
    gradients: bool
    error: float
    ms: float | None = None
    other_ms: float | None = None
    against: str = ""

    @property
    def label(self) -> str:
        rows = counted(self.rows, "row")
        return f"{rows} with gradients" if self.gradients else rows

    @property
    def speed(self) -> float | None:
        """How many times faster than the other; None if one of them was not timed."""
        return self.other_ms / self.ms if self.ms and self.other_ms else None


@dataclass(frozen=True)
class Finding:
    """Everything measured of one need. failure: why nothing more was; '' if all was measured.

    lasting: whether another try would end in the same way. checked_at: ISO 8601, UTC.
    """

    need: Need
    measures: tuple[Measure, ...] = ()
    failure: str = ""
    lasting: bool = True
    checked_at: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Finding":
        """The finding that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: the value is something else.
        """
        need = value["need"]
        if need["dtype"] not in ERROR_LIMITS:
            raise ValueError(f"dtype {need['dtype']}")
        sizes = tuple(int(size) for size in need["sizes"])
        measures = tuple(
            Measure(
                int(one["rows"]), bool(one["gradients"]), float(one["error"]),
                _number(one["ms"]), _number(one["other_ms"]), str(one["against"]),
            )
            for one in value["measures"]
        )  # fmt: skip
        return cls(
            Need(str(need["operation"]), sizes, str(need["dtype"]), str(need["variant"])),
            measures,
            str(value["failure"]),
            bool(value["lasting"]),
            str(value["checked_at"]),
        )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True)
class Verdict:
    """Whether a kernel goes in. reason: right, slower, wrong, failed or unchecked; why: in words.

    speeds: how many times faster, by `Measure.label`.
    """

    goes_in: bool
    reason: str
    why: str
    speeds: Mapping[str, float]
    against: str = ""

    @property
    def warns(self) -> bool:
        """Whether a user should hear of it: a slow kernel is no fault, a wrong one is."""
        return self.reason in ("wrong", "failed", "unchecked")


def decide(finding: Finding | None) -> Verdict:
    """What is right and not slower goes in: over all row counts together, and by far at none."""
    if finding is None:
        return Verdict(False, "unchecked", "not checked: the time for checks was over", {})
    speeds = {one.label: round(one.speed, 3) for one in finding.measures if one.speed is not None}
    against = next((one.against for one in finding.measures if one.against), "")
    limit = ERROR_LIMITS[finding.need.dtype]
    wrong = [one for one in finding.measures if not one.error <= limit]  # NaN is wrong
    if wrong:
        why = f"wrong at {wrong[0].label}: off by {wrong[0].error:.2g}, {limit:.2g} allowed"
        return Verdict(False, "wrong", why, speeds, against)
    if finding.failure and not finding.lasting:
        return Verdict(False, "unchecked", f"not checked: {finding.failure}", speeds, against)
    if finding.failure:
        return Verdict(False, "failed", f"failed: {finding.failure}", speeds, against)
    if speeds and _mean(speeds) < NOISE:
        why = f"slower: {_mean(speeds):.2f} x {against}"
        return Verdict(False, "slower", why, speeds, against)
    if speeds and min(speeds.values()) < SLOWEST:
        label = min(speeds, key=lambda one: speeds[one])
        why = f"slower at {label}: {speeds[label]:.2f} x {against}"
        return Verdict(False, "slower", why, speeds, against)
    return Verdict(True, "right", "", speeds, against)


def _mean(speeds: Mapping[str, float]) -> float:
    logs = [math.log(max(speed, 1e-9)) for speed in speeds.values()]
    return math.exp(sum(logs) / len(logs))
