"""Proving kernels on the machine they run on, before a model gets them.

`apply_checked` compares each kernel that a model needs with its reference and times it beside what
would run otherwise, the first time a device and these versions are seen.
"""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.kernels.first_use.checked_swap import Checked, apply_checked
    from mdl.kernels.first_use.operation_report import OperationReport, report_operations
    from mdl.kernels.first_use.proving import prove, records_in
    from mdl.kernels.first_use.record import Record
    from mdl.kernels.first_use.verdict import Finding, Limits, Measure, Verdict, decide

__getattr__ = door(
    __name__,
    {
        "checked_swap": "Checked apply_checked",
        "operation_report": "OperationReport report_operations",
        "proving": "prove records_in",
        "record": "Record",
        "verdict": "Finding Limits Measure Verdict decide",
    },
)
