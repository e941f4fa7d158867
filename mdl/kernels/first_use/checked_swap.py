"""Put those kernels into a model that are right and not slower on its devices."""

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from mdl.kernels.first_use.operation_report import OperationReport, report_operations
from mdl.kernels.first_use.proving import prove
from mdl.kernels.first_use.record import Record
from mdl.kernels.first_use.verdict import Verdict, decide
from mdl.kernels.swap import (
    Applied,
    Need,
    apply,
    chosen_operations,
    dtype_of,
    need_of,
    needs_of,
)


@dataclass(frozen=True)
class Checked:
    """What went in and what did not, by operation; warnings: kernels that are at fault."""

    applied: Applied
    operations: tuple[OperationReport, ...]
    warnings: tuple[str, ...]


def apply_checked(
    model: torch.nn.Module,
    home: str | os.PathLike[str],
    progress: Callable[[str], None] = lambda text: None,
    *,
    skip: Collection[str] | str | None = None,
    prove: Callable[..., Record] = prove,
) -> Checked:
    """`apply`, of the kernels that are right and not slower on every device of the model.

    A device and versions that were not seen before take some seconds, a minute at most.

    Args:
        home: `$MDL_HOME`. progress: given a line as each check begins.
        skip: names of operations to leave out.
        prove: finds the record of a device.
    """
    needs = needs_of(model, chosen_operations(None, skip))
    records = [prove(needs, device, home, progress) for device in _devices(model)] if needs else []

    def verdict(module: Any, operation: str) -> Verdict:
        need = need_of(module, operation, dtype_of(model))
        if need is None:
            return Verdict(False, "unchecked", "not checked: its sizes or dtype are unknown", {})
        found = [decide(record.findings.get(need)) for record in records]
        return next((one for one in found if not one.goes_in), found[0])

    applied = apply(model, skip=skip, refuse=lambda module, name: verdict(module, name).why)
    verdicts = [
        (need, record, decide(record.findings.get(need))) for need in needs for record in records
    ]
    faults = [(need, one) for need, _, one in verdicts if one.warns]
    return Checked(applied, report_operations(applied, records, needs), _warnings(faults))


def _warnings(faults: Iterable[tuple[Need, Verdict]]) -> tuple[str, ...]:
    """One line for each reason, with the kernels it is the reason for."""
    by_reason: dict[tuple[str, bool], list[str]] = {}
    for need, one in faults:
        needs = by_reason.setdefault((one.why, one.reason == "unchecked"), [])
        if str(need) not in needs:
            needs.append(str(need))
    return tuple(
        f"kernel{'s' if len(needs) > 1 else ''} {', '.join(needs)}: {why}; torch computes it, "
        f"and {'the next load' if again else 'mdl kernels check'} tries again"
        for (why, again), needs in by_reason.items()
    )


def _devices(model: torch.nn.Module) -> list[torch.device]:
    """One of each kind of GPU that holds a part of the model; the CPU where none does."""
    there = sorted({one.device for one in model.parameters() if one.is_cuda}, key=str)
    kinds = {torch.cuda.get_device_name(device): device for device in reversed(there)}
    return list(kinds.values()) or [torch.device("cpu")]
