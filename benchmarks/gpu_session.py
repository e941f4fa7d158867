"""One part of a GPU session: `python -m benchmarks.gpu_session PART --out FILE [--rehearse]`.

`benchmarks/gpu_session.sh` runs the parts in order. With `--rehearse` a CPU and tiny sizes stand in
for the GPU, so that every line of every part has run before there is one. A part that takes long
writes `FILE` with `.partial` in its name as it goes, and begins there when it is run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mdl.kernels import Limits, decide, prove
from mdl.kernels.bench import Clock, cases_4bit, cases_layers, models
from mdl.kernels.bench import main as bench
from mdl.kernels.bench.case import REAL, TINY, Case, Sizes
from mdl.kernels.bench.others import describe, versions
from mdl.kernels.bench.timing import copy_bytes_per_second, matmul_flops_per_second
from mdl.kernels.runtime import raising_failures, scratch
from mdl.kernels.self_check import run_checks
from mdl.kernels.swap import Need, llama_8b

NEEDED = ("transformers", "bitsandbytes", "peft", "liger_kernel", "fastsafetensors", "sqlalchemy")
Builder = Callable[[torch.device, Sizes], Iterator[Case]]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Session:
    """What a part measures on. partial: the file a long part writes as it goes."""

    device: torch.device
    rehearse: bool
    partial: Path

    @property
    def scale(self) -> int:
        return 1024 if self.rehearse else 1

    def clock(self) -> Clock:
        return Clock(self.device, 1 if self.rehearse else 30)


def environment(session: Session) -> dict[str, Any]:
    """The device, all versions, and what is missing: the first thing to look at."""
    smi = shutil.which("nvidia-smi")
    text = subprocess.run([smi], capture_output=True, text=True, check=False).stdout if smi else ""
    return {
        "device": describe(session.device),
        "versions": versions(),
        "missing": [name for name in NEEDED if importlib.util.find_spec(name) is None],
        "compute_sanitizer": shutil.which("compute-sanitizer") is not None,
        "nvidia_smi": text.splitlines(),
    }


def checks(session: Session) -> dict[str, Any]:
    """Every operation against its float64 reference, on small shapes."""
    found = run_checks(session.device, DTYPES)
    return {
        "wrong": [asdict(one) for one in found if not one.ok],
        "checks": list(map(asdict, found)),
    }


def first_use(session: Session) -> dict[str, Any]:
    """What a user's first load of an 8B Llama does, and how long it takes; then the second."""
    tiny = [
        Need("rms_norm", (64,), "bfloat16"),
        Need("linear_4bit", (64, 128, 64, 256), "bfloat16", "nf4"),
    ]
    needs = tiny if session.rehearse else list(llama_8b())
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as home:
        began = time.monotonic()
        record = prove(needs, session.device, home, lines.append, limits=Limits())
        took = time.monotonic() - began
        began = time.monotonic()
        prove(needs, session.device, home)
        again = time.monotonic() - began
    return {
        "seconds": round(took, 2),
        "seconds_again": round(again, 5),
        "progress": lines,
        "verdicts": {str(need): asdict(decide(record.findings.get(need))) for need in needs},
        "record": record.to_json(),
    }


def operations(session: Session, *builders: Builder) -> dict[str, Any]:
    """The cases of some operations beside bitsandbytes, Liger, cuBLAS and torch.compile."""
    report = _begun(session.partial)
    clock = session.clock()
    if not report:
        report = {
            "copy_bytes_per_second": copy_bytes_per_second(clock, (1 << 30) // session.scale),
            "matmul_flops_per_second": matmul_flops_per_second(
                clock, 64 if session.rehearse else 8192
            ),
            "operations": [],
        }
    done = {(row["operation"], row["shape"]) for row in report["operations"]}
    sizes = TINY if session.rehearse else REAL
    for case in (case for build in builders for case in build(session.device, sizes)):
        if (case.operation, case.shape) not in done:
            row = {"operation": case.operation, "shape": case.shape}
            try:
                row |= bench.measure(case, clock, (), report)
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {error}"[:300]
            report["operations"].append(row)
            _write(session.partial, report)
        del case
        scratch.clear()
    return report


def products(session: Session) -> dict[str, Any]:
    """The 4-bit format and its products."""
    return operations(session, cases_4bit.products, cases_4bit.formats, cases_4bit.training)


def layers(session: Session) -> dict[str, Any]:
    """All other operations."""
    builders = (cases_layers.norms, cases_layers.rope, cases_layers.glu, cases_layers.loss)
    return operations(session, *builders, cases_layers.fused_loss)


def _shape(session: Session) -> models.Shape:
    return models.TINY if session.rehearse else models.LLAMA_8B


def decoding(session: Session) -> dict[str, Any]:
    """An 8B Llama in NF4: prefill and decoding, with and without our kernels and CUDA graphs."""
    shape = _shape(session)
    model = models.build(session.device, shape)
    found = models.measure_inference(model, session.device, shape, lambda: False)
    return {"model": shape.name, **found}


def training(session: Session) -> dict[str, Any]:
    """A QLoRA step of the same model beside transformers and PEFT."""
    shape = _shape(session)
    model = models.build(session.device, shape)
    return {
        "model": shape.name,
        **models.measure_training(model, session.device, shape, lambda: False),
    }


def loading(session: Session) -> dict[str, Any]:
    """Seconds to have a checkpoint's tensors on the device, by who reads it; files are cached."""
    from benchmarks.loading import make_models

    bf16, nf4 = make_models(session.rehearse)
    found: dict[str, Any] = {}
    for name, folder in (("bf16", bf16), ("nf4", nf4)):
        files = sorted(folder.glob("*.safetensors"))
        found[name] = {"bytes": sum(file.stat().st_size for file in files)}
        for who, load in _ways(session.device, folder, files):
            found[name][who] = _best(session, load)
            _write(session.partial, found)
    return found


def _ways(
    device: torch.device, folder: Path, files: list[Path]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    import safetensors.torch
    import transformers

    import mdl

    yield "pinned copy", lambda: [pinned_copy(file, device) for file in files]
    yield "safetensors", lambda: [safetensors.torch.load_file(file, str(device)) for file in files]
    yield "fastsafetensors", lambda: fastsafetensors_copy(files, device)
    yield (
        "transformers",
        lambda: transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", device_map={"": device}
        ),
    )
    in_4bit = folder.name.endswith("nf4")
    yield (
        "mdl",
        lambda: mdl.load(
            str(folder), load_in_4bit=in_4bit, kernels=False, device_map={"": str(device)}
        ),
    )


def pinned_copy(file: Path, device: torch.device, chunk: int = 1 << 26) -> torch.Tensor:
    """A file's bytes on the device, through two pinned buffers: as quick as reading can be."""
    pin = device.type == "cuda"
    size = file.stat().st_size
    out = torch.empty(size, dtype=torch.uint8, device=device)
    buffers = [torch.empty(min(chunk, size), dtype=torch.uint8, pin_memory=pin) for _ in range(2)]
    copied: list[Any] = [None, None]
    with file.open("rb", buffering=0) as stream:
        for turn, start in enumerate(range(0, size, chunk)):
            buffer, count = buffers[turn % 2], min(chunk, size - start)
            if copied[turn % 2] is not None:
                copied[turn % 2].synchronize()
            stream.readinto(buffer[:count].numpy().data)
            out[start : start + count].copy_(buffer[:count], non_blocking=pin)
            if pin:
                copied[turn % 2] = torch.cuda.current_stream(device).record_event()
    return out


def fastsafetensors_copy(files: list[Path], device: torch.device) -> None:
    """All tensors of the files on the device, as fastsafetensors copies them."""
    from fastsafetensors import (  # type: ignore[import-not-found] # where it is installed
        SafeTensorsFileLoader,
        SingleGroup,
    )
    from safetensors import safe_open

    loader = SafeTensorsFileLoader(SingleGroup(), str(device), nogds=True)
    loader.add_filenames({0: [str(file) for file in files]})
    buffer = loader.copy_files_to_device()
    for file in files:
        with safe_open(file, "pt") as header:
            for name in header.keys():  # noqa: SIM118 # it is no table
                buffer.get_tensor(name)
    buffer.close()
    loader.close()


def _best(session: Session, load: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of the best of three, or the error."""
    best = float("inf")
    try:
        for _ in range(1 if session.rehearse else 3):
            began = time.perf_counter()
            kept = load()
            if session.device.type == "cuda":
                torch.cuda.synchronize(session.device)
            best = min(best, time.perf_counter() - began)
            del kept
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    return {"seconds": round(best, 4)}


def sanitizer(session: Session) -> dict[str, Any]:
    """compute-sanitizer over the checks."""
    return bench.sanitize()


PARTS: dict[str, Callable[[Session], dict[str, Any]]] = {
    "environment": environment,
    "checks": checks,
    "first-use": first_use,
    "decoding": decoding,
    "products": products,
    "training": training,
    "layers": layers,
    "loading": loading,
    "sanitizer": sanitizer,
}


def _begun(partial: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(partial.read_text())
    except (OSError, ValueError):
        return {}
    return report


def _write(path: Path, report: dict[str, Any]) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(report, indent=1, default=str) + "\n")
    unfinished.replace(path)


def summary(folder: Path) -> Iterator[str]:
    """The lines to read first, from the parts that are there."""
    found = {part: _begun(folder / f"{part}.json") for part in PARTS}
    for part, report in found.items():
        partial = folder / f"{part}.partial.json"
        state = "begun" if partial.exists() else "missing"
        yield f"{part}: done, {report['seconds_of_part']} s" if report else f"{part}: {state}"
    for name in found["environment"].get("missing", ()):
        yield f"not installed: {name}"
    for one in found["checks"].get("wrong", ()):
        yield f"WRONG: {one['operation']} in {one['dtype']}, off by {one['error']:.2g}"
    if found["first-use"]:
        yield f"first use of an 8B Llama: {found['first-use']['seconds']} s"
    for need, verdict in found["first-use"].get("verdicts", {}).items():
        yield f"  {need}: {'in' if verdict['goes_in'] else verdict['why']} {verdict['speeds']}"
    for part in ("products", "layers"):
        report = found[part] or _begun(folder / f"{part}.partial.json")
        if report:
            yield bench.summary(report)


def main(argv: list[str] | None = None) -> int:
    """Run one part and write its file; 1, with a line on standard error, where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_session")
    parser.add_argument("part", choices=[*PARTS, "summary", "names"])
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args(argv)
    if options.part == "names":
        print("\n".join(PARTS))
        return 0
    if options.part == "summary":
        print("\n".join(summary(options.out)))
        return 0
    if not options.rehearse and not torch.cuda.is_available():
        print("There is no GPU here; --rehearse runs every part on the CPU.", file=sys.stderr)
        return 1
    device = torch.device("cpu" if options.rehearse else "cuda:0")
    partial = options.out.with_suffix(".partial.json")
    began = time.monotonic()
    with raising_failures():
        report = PARTS[options.part](Session(device, options.rehearse, partial))
    report = {**report, "rehearsed": options.rehearse}
    _write(options.out, {**report, "seconds_of_part": round(time.monotonic() - began, 1)})
    partial.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
