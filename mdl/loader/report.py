"""The report of a load: what was loaded, and why. Keep it with a training run."""

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mdl.formatting import human_size
from mdl.loader.checkpoint import FileRecord
from mdl.loader.disk import make_parent


@dataclass(frozen=True)
class Report:
    """Everything needed to say later which weights a run used.

    Sizes are in bytes, times in seconds. `loaded_by` is `transformers` or `mdl` (from mapped
    weights); `note` says why not mapped, or what was renamed. `local_copy` is the folder of the
    local copy that was read or saved. `adapter` has the folder, file and SHA-256 of the adapter,
    and its repository and commit if it has one.
    """

    requested: Mapping[str, Any]
    resolution: Mapping[str, Any]
    folder: str
    commit: str | None
    files: tuple[FileRecord, ...]
    fingerprint: str | None
    config_sha256: str
    model_class: str
    dtype: str
    quantization: Mapping[str, Any] | None
    quantized_on_load: bool
    local_copy: str | None
    parameters: Mapping[str, int]
    memory: Mapping[str, int]
    devices: tuple[str, ...]
    kernels: tuple[Mapping[str, Any], ...]
    loaded_by: str
    note: str
    remote_code: bool
    pickles: bool
    new_parameters: tuple[str, ...]
    unused_tensors: tuple[str, ...]
    downloaded: int
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    adapter: Mapping[str, Any] | None = None
    created_at: float = field(default_factory=time.time)

    @property
    def repo_id(self) -> str:
        return str(self.resolution["repo_id"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Report":
        """The report that `to_json` returned.

        Raises:
            KeyError, TypeError: the value is not a report.
        """
        table = dict(value)
        table["files"] = tuple(FileRecord(**file) for file in table["files"])
        for key in ("devices", "kernels", "new_parameters", "unused_tensors", "warnings"):
            table[key] = tuple(table[key])
        return cls(**table)

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON, atomically; creates its folder.

        Raises:
            DiskError: the folder cannot be created or written to.
        """
        target = Path(path)
        make_parent(target)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".report-")
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(self.to_json(), stream, indent=2, default=str)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return target

    def lines(self) -> list[tuple[str, str]]:
        """The rows of the readable table: name and value."""
        resolution, total = self.resolution, self.parameters["total"]
        rows = [
            ("requested", str(self.requested["name"])),
            ("loaded", f"{self.repo_id}{f' @ {self.commit[:12]}' if self.commit else ''}"),
            ("why", str(resolution["trace"][-1]["reason"]) if resolution["trace"] else ""),
            ("format", _format_line(self)),
            ("class", self.model_class),
            ("parameters", f"{total:,}{_quantized_part(self)}"),
            ("weights", f"{human_size(self.memory['weights'])} on {', '.join(self.devices)}"),
            *[("kernels", str(one["summary"])) for one in self.kernels or [{"summary": "none"}]],
            ("loaded by", f"{self.loaded_by}{f' ({self.note})' if self.note else ''}"),
            ("downloaded", human_size(self.downloaded)),
            ("seconds", ", ".join(f"{name} {took:.2f}" for name, took in self.seconds.items())),
        ]
        if resolution["substituted"]:
            rows.insert(2, ("instead of", str(resolution["canonical"])))
        if self.adapter:
            rows.insert(2, ("with adapter", adapter_line(self.adapter)))
        if self.local_copy:
            rows.append(("local copy", self.local_copy))
        if self.new_parameters:
            rows.append(("new weights", f"{len(self.new_parameters)}, not in the checkpoint"))
        if self.remote_code:
            rows.append(("remote code", "allowed"))
        return [*rows, *(("warning", text) for text in self.warnings)]

    def __str__(self) -> str:
        return two_columns(self.lines())


def _format_line(report: Report) -> str:
    variant = report.resolution.get("variant")
    format = report.resolution["format"] + (f":{variant}" if variant else "")
    if report.quantization is None:
        return f"{format}, {report.dtype}"
    if format == "16bit":  # as a folder is asked for, whatever is in it
        format = report.resolution.get("weights") or format
    how = report.quantization.get("quant_method")
    if report.quantization.get("load_in_4bit"):
        how = report.quantization.get("bnb_4bit_quant_type")
    when = "quantized on load" if report.quantized_on_load else "as stored"
    return f"{format}, {how}, {report.dtype}, {when}"


def adapter_line(adapter: Mapping[str, Any]) -> str:
    """An adapter's repository and commit, or its folder."""
    if "repo_id" not in adapter:
        return str(adapter["folder"])
    return f"{adapter['repo_id']} @ {adapter['commit'][:12]}"


def _quantized_part(report: Report) -> str:
    count = report.parameters["quantized"]
    if not count:
        return ""
    settings = report.quantization or {}
    if settings.get("quant_method") != "bitsandbytes":
        return f" ({count:,} quantized)"
    return f" ({count:,} in {4 if settings.get('load_in_4bit') else 8} bits)"


def two_columns(lines: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
