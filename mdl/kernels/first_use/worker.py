"""The process that checks and times kernels: `python -m mdl.kernels.first_use.worker`.

It is a process of its own, because a kernel that hangs or writes where it must not takes the
process down with it, and the one that waits may hold a model. It reads one job from standard input,
`{"device", "needs"}`, and writes a JSON line as it begins each need and one as it ends it.
"""

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TextIO

import torch

from mdl.kernels.bench import Clock
from mdl.kernels.first_use.trials import error_of, stages, trial
from mdl.kernels.first_use.verdict import ERROR_LIMITS, Finding, Measure
from mdl.kernels.runtime import raising_failures, scratch
from mdl.kernels.swap import Need

_ROUNDS = 10


def main() -> None:
    """Examine every need of the job on standard input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    job = json.load(sys.stdin)
    device = torch.device(job["device"])
    with raising_failures():
        for one in job["needs"]:
            need = Need(one["operation"], tuple(one["sizes"]), one["dtype"], one["variant"])
            _say(answers, {"begun": asdict(need)})
            _say(answers, {"found": examine(need, device).to_json()})
            if not _works(device):
                raise SystemExit(1)  # a fresh process examines the rest


def examine(need: Need, device: torch.device) -> Finding:
    """Compare and time one need, until something is wrong with it."""
    measures: list[Measure] = []
    failure, lasting = "", True
    try:
        for rows, gradients in stages(need):
            measures.append(_measure(need, rows, gradients, device))
            if not measures[-1].error <= ERROR_LIMITS[need.dtype]:
                break
    except torch.OutOfMemoryError:
        failure, lasting = "not enough memory on the device", False
    except Exception as error:
        failure = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    scratch.clear()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Finding(need, tuple(measures), failure, lasting, now)


def _measure(need: Need, rows: int, gradients: bool, device: torch.device) -> Measure:
    one = trial(need, rows, device)
    wider = torch.float64 if need.dtype == "float32" else torch.float32
    exact = one.run(one.exact, [leaf.to(wider) for leaf in one.leaves], gradients)
    ours = one.run(one.ours, one.leaves, gradients)
    error = max(map(error_of, ours, exact))
    del exact, ours
    if not error <= ERROR_LIMITS[need.dtype]:
        return Measure(rows, gradients, error)
    times = Clock(device, _ROUNDS).interleaved(
        {
            "ours": lambda: one.run(one.ours, one.leaves, gradients),
            "other": lambda: one.run(one.other, one.leaves, gradients),
        }
    )
    if times["ours"].error:
        raise RuntimeError(times["ours"].error)
    return Measure(
        rows, gradients, error, times["ours"].median_ms, times["other"].median_ms, one.against
    )


def _works(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except Exception:
        return False
    torch.cuda.empty_cache()
    return True


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
