"""Run the measurement and write its JSON. Correctness first: a wrong kernel is not timed."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mdl.errors import MdlError, UsageError
from mdl.kernels.bench.case import REAL, Case, Sizes
from mdl.kernels.bench.cases import OPERATIONS, cases
from mdl.kernels.bench.models import LLAMA_8B, measure_models
from mdl.kernels.bench.others import describe, versions
from mdl.kernels.bench.timing import Clock, copy_bytes_per_second, matmul_flops_per_second
from mdl.kernels.runtime import (
    CANDIDATES,
    OLDEST_CAPABILITY,
    TABLE,
    config_for,
    has_triton,
    raising_failures,
    scratch,
)
from mdl.kernels.self_check import Check, difference, run_checks
from mdl.version import install_command


def main(argv: list[str] | None = None) -> None:
    """The command line of `python -m benchmarks.gpu`.

    Raises:
        MdlError: there is no GPU that can run the kernels, or Triton is missing.
        UsageError: an option that cannot be.
    """
    measure_here(_parser().parse_args(argv))


def measure_here(options: argparse.Namespace) -> None:
    """Measure what the options ask for on the GPU that is here. Fields: see `_parser`.

    Raises:
        MdlError, UsageError: as `main`.
    """
    check_options(options)
    device = require_gpu()
    with raising_failures():
        _measure_on(device, options)


def _measure_on(device: torch.device, options: argparse.Namespace) -> None:
    if options.tune:
        _print_or_write(tune(device, options.only), options.out)
        return
    report = run(device, REAL, options)
    report["compute_sanitizer"] = sanitize()
    if not options.no_models:
        deadline = options.started + options.minutes * 60
        report["models"] = measure_models(device, LLAMA_8B, lambda: time.monotonic() > deadline)
    report["seconds"] = round(time.monotonic() - options.started, 1)
    _print_or_write(report, options.out)
    if not options.as_json:
        print(summary(report))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Measure mdl's kernels on an NVIDIA GPU."
    )
    parser.add_argument("--out", type=Path, help="write the JSON here (default: print it)")
    parser.add_argument("--only", help="only operations that contain this text")
    parser.add_argument("--no-models", action="store_true", help="leave out the whole models")
    parser.add_argument("--minutes", type=float, default=8.0, help="stop measuring after so many")
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each contender")
    parser.add_argument("--tune", action="store_true", help="time the candidate configurations")
    parser.add_argument(
        "--json", dest="as_json", action="store_true", help="print nothing but the JSON"
    )
    parser.set_defaults(started=time.monotonic())
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Refuse before the minutes of measuring what would waste them.

    Raises:
        UsageError: nothing is called so, no time, no rounds, or no place for the result.
    """
    names = tuple(CANDIDATES) if options.tune else OPERATIONS
    if options.only and not any(options.only in name for name in names):
        raise UsageError(
            f"Nothing to {'tune' if options.tune else 'measure'} is called {options.only!r}.",
            next=f"There are {'; '.join(names)}.",
        )
    if options.rounds < 1 or options.minutes <= 0:
        raise UsageError(
            "A measurement takes at least one round and some minutes.",
            next="Give --rounds 1 or more, and --minutes above 0.",
        )
    if options.out is not None:
        _check_writable(options.out)


def _check_writable(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        why = "It is a folder." if out.is_dir() else ""
        if not os.access(out if out.exists() else out.parent, os.W_OK):
            why = "Permission denied."
    except OSError as error:
        why = str(error)
    if why:
        raise UsageError(
            f"The result cannot be written to {out}.",
            why=why,
            next="Give --out a file in a folder that can be written.",
        )


def require_gpu() -> torch.device:
    """The GPU to measure.

    Raises:
        MdlError: none is there, it is too old, or Triton is not installed.
    """
    if not torch.cuda.is_available():
        raise MdlError(
            "This measurement needs an NVIDIA GPU, and there is none.",
            why="torch.cuda.is_available() is false.",
            next="Run it on a machine with one; `mdl kernels check` checks the kernels without.",
        )
    device = torch.device("cuda", torch.cuda.current_device())
    if torch.version.hip or torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        raise MdlError(
            f"{torch.cuda.get_device_name(device)} cannot run the kernels.",
            why="They need an NVIDIA GPU of compute capability 8.0 or newer.",
            next="Measure on another one; this one runs the torch references.",
        )
    if not has_triton():
        raise MdlError(
            "Triton is not installed, and the kernels are written in it.",
            next=f"Run: {install_command('kernels')}",
        )
    return device


def sanitize() -> dict[str, Any]:
    """What compute-sanitizer finds in the checks' small shapes, where it is installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"skipped": "compute-sanitizer is not installed"}
    command = [tool, "--tool", "memcheck", sys.executable, "-m", "mdl.kernels.self_check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        return {"skipped": "it did not finish within 90 seconds"}
    lines = (done.stdout + done.stderr).splitlines()
    return {"summary": [line for line in lines if "ERROR SUMMARY" in line], "rc": done.returncode}


def run(device: torch.device, sizes: Sizes, options: argparse.Namespace) -> dict[str, Any]:
    """Check, then measure every operation until the time is up."""
    clock = Clock(device, options.rounds)
    checks = run_checks(device, (torch.float32, torch.float16, torch.bfloat16))
    scale = 1 if device.type == "cuda" else 1024
    report: dict[str, Any] = {
        "device": describe(device),
        "versions": versions(),
        "copy_bytes_per_second": copy_bytes_per_second(clock, (1 << 30) // scale),
        "matmul_flops_per_second": matmul_flops_per_second(clock, 8192 // min(scale, 64)),
        "checks": [{**asdict(one), "ok": one.ok} for one in checks],
        "operations": [],
    }
    # The whole models get the last third of the time.
    share = 1.0 if options.no_models else 0.65
    deadline = options.started + options.minutes * 60 * share
    for case in cases(device, sizes):
        if options.only and options.only not in case.operation:
            continue
        row: dict[str, Any] = {"operation": case.operation, "shape": case.shape}
        if time.monotonic() > deadline:
            row["skipped"] = "out of time"
        else:
            row.update(measure(case, clock, checks, report))
        report["operations"].append(row)
        del case
        scratch.clear()
    return report


def measure(
    case: Case, clock: Clock, checks: Iterable[Check], report: dict[str, Any]
) -> dict[str, Any]:
    """One case: what is wrong with it, or every contender's time and share of the limit."""
    wrong = [one for one in checks if one.operation.startswith(case.of) and not one.ok]
    if wrong:
        return {"wrong": f"{wrong[0].operation} in {wrong[0].dtype} is off by {wrong[0].error:.2g}"}
    error = difference(case.contenders["ours"](), case.exact())
    if error > case.limit:
        return {"wrong": f"off by {error:.2g} from the reference, {case.limit:.2g} allowed"}
    rows = {}
    for name, timing in clock.interleaved(case.contenders).items():
        row = asdict(timing)
        if timing.median_ms:
            row["share"] = round(share_of_limit(case, timing.median_ms, report), 4)
        rows[name] = row
    return {"error": error, "goal": case.goal, "contenders": rows}


def share_of_limit(case: Case, median_ms: float, report: dict[str, Any]) -> float:
    """The part of a copy's bandwidth, or of a matrix product's speed, that a time means."""
    if case.flops:
        best: float = report["matmul_flops_per_second"]
        return case.flops / (median_ms / 1e3) / best
    copied: float = report["copy_bytes_per_second"]
    return case.bytes / (median_ms / 1e3) / copied


def summary(report: dict[str, Any]) -> str:
    """One line an operation: our share of the limit, its goal, and the best other contender."""
    lines = []
    for row in report["operations"]:
        where = f"{row['operation']}, {row['shape']}"
        if "contenders" not in row:
            lines.append(f"{where}: {row.get('wrong') or row.get('skipped')}")
            continue
        times = {who: one["median_ms"] for who, one in row["contenders"].items()}
        ours = row["contenders"]["ours"]
        others = {who: ms for who, ms in times.items() if who != "ours" and ms}
        best = min(others, key=lambda who: others[who], default="")
        goal = f" (goal {row['goal']:.0%})" if row["goal"] else ""
        beside = f"; {best} {others[best]:.4f} ms" if best else ""
        lines.append(f"{where}: {ours['median_ms']} ms, {ours.get('share', 0):.1%}{goal}{beside}")
    return "\n".join(lines)


def tune(device: torch.device, only: str | None) -> dict[str, Any]:
    """Time every candidate configuration of the operations in `tune.CANDIDATES`."""
    clock = Clock(device)
    major = torch.cuda.get_device_capability(device)[0]
    chosen = [name for name in CANDIDATES if not only or only in name]
    found: dict[str, Any] = {}
    for name in chosen:
        kept = config_for(name, major)
        for config in (kept, *CANDIDATES[name]):
            TABLE[name][major] = config
            try:
                found[f"{name} {config}"] = _tuned(clock, name)
            finally:
                TABLE[name][major] = kept
    return {"device": describe(device), "versions": versions(), "tuning": found}


# What one operation's configuration decides: the others' rows need no time.
_ROWS_OF = {"gemm_4bit_8": (4, 8), "gemm_4bit_16": (16,), "gemm_4bit_32": (32,)}


def _tuned(clock: Clock, name: str) -> dict[str, float | None]:
    """Our median milliseconds on the large projections, under the table as it is now."""
    few = replace(REAL, projections=REAL.projections[:4], rows=_ROWS_OF.get(name, (1,)))
    measured = name if name in ("dequantize_4bit", "quantize_4bit") else "linear_4bit"
    times: dict[str, float | None] = {}
    for case in cases(clock.device, few):
        if case.operation == measured:
            ours = clock.interleaved({"ours": case.contenders["ours"]})["ours"]
            times[case.shape] = ours.median_ms
    return times


def _print_or_write(report: dict[str, Any], out: Path | None) -> None:
    text = json.dumps(report, indent=2)
    if out is None:
        print(text)
        return
    out.write_text(text + "\n")


__all__ = ["main", "measure", "measure_here", "require_gpu", "run", "summary", "tune"]
