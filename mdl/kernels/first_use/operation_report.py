"""What a load report says of each operation: in or out, checked where, how much faster."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import geometric_mean
from typing import Any

from mdl.formatting import counted
from mdl.kernels.first_use.record import Record
from mdl.kernels.first_use.verdict import Verdict, decide
from mdl.kernels.swap import Applied, Need


@dataclass(frozen=True)
class OperationReport:
    """One operation in a model.

    modules_in, modules_out: how many have the kernel, and how many could and do not. why: reasons
    of those. devices, checked_at: where and when it was checked; empty if it was not. speeds: how
    many times faster than `against`, by row count, over all sizes; as measured on the slowest kind
    of device.
    """

    operation: str
    modules_in: int
    modules_out: int
    why: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    checked_at: str = ""
    speeds: Mapping[str, float] = field(default_factory=dict)
    against: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "summary": str(self)}

    def __str__(self) -> str:
        where = []
        if self.modules_in:
            where.append(f"in {counted(self.modules_in, 'module')}")
        if self.modules_out:
            where.append(f"not in {self.modules_out} ({'; '.join(self.why)})")
        parts = [f"{self.operation}: {', '.join(where)}"]
        if self.speeds:
            times = ", ".join(f"{speed:.2f} at {label}" for label, speed in self.speeds.items())
            parts.append(f"times faster than {self.against}: {times}")
        checked = f"checked {self.checked_at[:10]} on {', '.join(self.devices)}"
        return "; ".join([*parts, checked if self.devices else "not checked"])


def report_operations(
    applied: Applied, records: Sequence[Record] = (), needs: Iterable[Need] = ()
) -> tuple[OperationReport, ...]:
    """A report for each operation that the model could have had, without records unchecked."""
    counts = Counter(one.operation for one in applied.left)
    names = sorted({*applied.counts, *(one.operation for one in applied.left)})
    needs = list(needs)
    return tuple(
        OperationReport(
            name,
            applied.counts.get(name, 0),
            counts[name],
            tuple(dict.fromkeys(one.why for one in applied.left if one.operation == name)),
            *_checked([need for need in needs if need.operation == name], records),
        )
        for name in names
    )


def _checked(
    needs: Sequence[Need], records: Sequence[Record]
) -> tuple[tuple[str, ...], str, dict[str, float], str]:
    """Devices, time, speeds and what they are over, of one operation."""
    found = [
        (record.identity.device, finding, decide(finding))
        for record in records
        for need in needs
        if (finding := record.findings.get(need)) is not None and finding.measures
    ]
    devices = tuple(dict.fromkeys(device for device, _, _ in found))
    when = max((finding.checked_at for _, finding, _ in found), default="")
    each = [_speeds([one for where, _, one in found if where == device]) for device in devices]
    slowest = min(each, key=lambda speeds: min(speeds.values(), default=0.0), default={})
    against = next((one.against for _, _, one in found if one.against), "")
    return devices, when, slowest, against


def _speeds(verdicts: Sequence[Verdict]) -> dict[str, float]:
    labels = dict.fromkeys(label for one in verdicts for label in one.speeds)
    return {
        label: round(
            geometric_mean(max(one.speeds[label], 1e-9) for one in verdicts if label in one.speeds),
            2,
        )
        for label in labels
    }
