"""`mdl kernels`: what the kernels are, whether they are right, how fast they are."""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mdl.cli.output import FilePath, echo_json
from mdl.errors import UsageError, VerificationError
from mdl.formatting import table
from mdl.settings import load_settings

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def kernels() -> None:
    """The Triton kernels: list, check, measure."""


@kernels.command("ls")
@_JSON
def ls(as_json: bool) -> None:
    """List the operations, what runs them here, and what was found about them on a GPU."""
    import torch

    from mdl.kernels import backend, records_in
    from mdl.kernels import ls as operations
    from mdl.kernels.swap import RULES

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, Any]] = []
    for one in operations():
        modules = sorted(path for path, rule in RULES.items() if rule.operation == one.name)
        rows.append({"operation": one.name, "what": one.what, "modules": modules})
    used, records = backend(device), records_in(load_settings().home)
    if as_json:
        found = [{**one.to_json(), "verdicts": _verdicts(one)} for one in records]
        body = {"device": str(device), "backend": used, "operations": rows, "checked": found}
        echo_json(body)
        return
    cells = [[one["operation"], str(len(one["modules"])), one["what"]] for one in rows]
    click.echo(table(["OPERATION", "MODULE TYPES", "WHAT"], cells, right=["MODULE TYPES"]))
    click.echo(f"\non {device}: {_BACKENDS[used]}")
    for record in records:
        _show_record(record)


def _verdicts(record: Any) -> list[dict[str, Any]]:
    from mdl.kernels import decide

    return [
        {"need": str(need), **asdict(decide(finding))} for need, finding in record.findings.items()
    ]


def _show_record(record: Any) -> None:
    """One line a kernel and size: in or out, and the speeds."""
    one = record.identity
    parts = [f"{one.device}, driver {one.driver or '-'}", f"torch {one.torch}"]
    parts += [f"triton {one.triton or '-'}", f"mdl {one.mdl}"]
    cells = [
        [
            verdict["need"],
            "in" if verdict["goes_in"] else "out",
            ", ".join(f"{speed:.2f} at {label}" for label, speed in verdict["speeds"].items()),
            verdict["against"],
            verdict["why"],
        ]
        for verdict in _verdicts(record)
    ]
    click.echo(f"\nChecked on {', '.join(parts)}:")
    click.echo(table(["KERNEL", "VERDICT", "TIMES FASTER", "THAN", "WHY"], cells))


_BACKENDS = {
    "triton": "the Triton kernels run",
    "interpreter": "the Triton kernels run in Triton's interpreter, slowly",
    "reference": "the torch references run (no NVIDIA GPU with Triton here)",
}


@kernels.command("check")
@click.option("--aot", is_flag=True, help="Compile every kernel for sm_80 to sm_120 instead.")
@click.option("--candidates", is_flag=True, help="With --aot: the tuner's configurations too.")
@_JSON
def check(aot: bool, candidates: bool, as_json: bool) -> None:
    """Compare every operation with a float64 reference, on the GPU or in Triton's interpreter.

    On a GPU, what `mdl kernels ls` shows of it is found anew: for the sizes that were needed
    so far, or for those of an 8B Llama.
    """
    if aot:
        _check_aot(candidates, as_json)
        return
    if candidates:
        raise UsageError(
            "--candidates goes with --aot: the configurations are only compiled.",
            next="Add --aot, or leave --candidates out.",
        )
    from mdl.kernels import check_here, failures

    used, checks = check_here()
    if not as_json:
        cells = [
            [one.operation, one.dtype, f"{one.error:.1e}", f"{one.limit:.0e}", _word(one.ok)]
            for one in checks
        ]
        header = ["OPERATION", "DTYPE", "ERROR", "LIMIT", ""]
        click.echo(table(header, cells, right=["ERROR", "LIMIT"]))
        click.echo(f"\n{_BACKENDS[used]}")
    body: dict[str, Any] = {
        "backend": used,
        "checks": [{**asdict(one), "ok": one.ok} for one in checks],
    }
    wrong = list(failures(checks))
    if used == "triton" and not wrong:
        body["checked"] = _check_anew(as_json)
    _end("operations", wrong, body, as_json)


def _check_anew(as_json: bool) -> dict[str, Any]:
    """Examine the kernels at the sizes that are on record for this GPU, and show what was found."""
    import torch

    from mdl.kernels import prove
    from mdl.kernels.swap import llama_8b

    home, device = load_settings().home, torch.device("cuda", torch.cuda.current_device())
    needs = list(prove((), device, home).findings) or list(llama_8b())
    record = prove(needs, device, home, lambda line: click.echo(line, err=True), anew=True)
    if not as_json:
        _show_record(record)
    return {**record.to_json(), "verdicts": _verdicts(record)}


def _check_aot(candidates: bool, as_json: bool) -> None:
    from mdl.kernels.compiled import compile_all

    found = compile_all(candidates=candidates)
    if not as_json:
        cells = [
            [
                one.variant,
                f"sm_{one.capability}",
                str(one.registers),
                str(one.stack + one.local),
                str(one.shared),
                f"{one.per_element:.2f}" if one.per_element else "-",
                "; ".join(one.problems) or "ok",
            ]
            for one in found
        ]
        header = ["KERNEL", "TARGET", "REGISTERS", "SPILLED", "SHARED", "PER ELEMENT", ""]
        click.echo(table(header, cells, right=header[2:6]))
    wrong = [f"{one.variant} on sm_{one.capability}" for one in found if one.problems]
    body = {"variants": [asdict(one) for one in found]}
    _end("compiled kernels", [] if candidates else wrong, body, as_json)


def _word(ok: bool) -> str:
    return "ok" if ok else "WRONG"


def _end(what: str, wrong: list[str], body: dict[str, Any], as_json: bool) -> None:
    """Print the object, or refuse with it when something is wrong."""
    if wrong:
        raise VerificationError(
            f"{len(wrong)} {what} are not as they must be.",
            why="; ".join(wrong[:5]),
            next="Load with kernels=False, and report this with the output of this command.",
            details=body,
        )
    if as_json:
        echo_json(body)


@kernels.command("bench")
@click.option("--out", type=FilePath(path_type=Path), help="Write the JSON here, not to stdout.")
@click.option("--only", metavar="TEXT", help="Only operations whose name contains this.")
@click.option("--no-models", is_flag=True, help="Leave out the whole models.")
@click.option("--minutes", type=float, default=8.0, show_default=True, help="Stop after so many.")
@click.option("--rounds", type=int, default=30, show_default=True, help="Timed calls of each.")
@click.option("--tune", is_flag=True, help="Time the candidate configurations instead.")
@click.option("--json", "as_json", is_flag=True, help="Print nothing but the JSON.")
def bench(**options: Any) -> None:
    """Measure everything on a GPU and write one JSON object."""
    from mdl.kernels.bench import measure_here

    measure_here(argparse.Namespace(started=time.monotonic(), **options))
