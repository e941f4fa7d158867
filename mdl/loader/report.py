"""What was loaded, and why: the proof that goes beside a training run."""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mdl.errors import DiskError
from mdl.loader.checkpoint import Checkpoint, TensorInfo

SAMPLE = 1024  # bytes read at each end of a tensor for the fingerprint


@dataclass(frozen=True)
class FileRecord:
    """One file that was read. `hash` is the name of its blob in the cache: a SHA-256 for a large
    file, git's blob SHA-1 for a small one; None outside the cache until `mdl verify` computes it.
    """

    path: str
    size: int
    hash: str | None


@dataclass(frozen=True)
class Report:
    """Everything a person needs to say later what a run was trained on.

    Sizes are bytes, times seconds. `loaded_by` is `transformers` or `mdl` (the fast path), with
    `note` saying why not the fast one. `adapter` has the folder, file and SHA-256 of what was put
    on the model, and its repository and commit where it has one.
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
    mirror: str | None
    parameters: Mapping[str, int]
    memory: Mapping[str, int]
    devices: tuple[str, ...]
    kernels: tuple[str, ...]
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
        """The report that `to_json` wrote.

        Raises:
            KeyError, TypeError: the value is no report.
        """
        table = dict(value)
        table["files"] = tuple(FileRecord(**file) for file in table["files"])
        for key in ("devices", "kernels", "new_parameters", "unused_tensors", "warnings"):
            table[key] = tuple(table[key])
        return cls(**table)

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON, whole or not at all; its folder is made where it is not there.

        Raises:
            DiskError: the folder cannot be made or written to.
        """
        target = Path(path)
        make_folder_for(target)
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
        """The readable table: what, and its value."""
        resolution, total = self.resolution, self.parameters["total"]
        shown = [
            ("requested", str(self.requested["name"])),
            ("loaded", f"{self.repo_id}{f' @ {self.commit[:12]}' if self.commit else ''}"),
            ("why", str(resolution["trace"][-1]["reason"]) if resolution["trace"] else ""),
            ("format", _format_line(self)),
            ("class", self.model_class),
            ("parameters", f"{total:,}{_quantized_part(self)}"),
            ("weights", f"{self.memory['weights'] / 1e6:,.1f} MB on {', '.join(self.devices)}"),
            ("kernels", ", ".join(self.kernels) or "none"),
            ("loaded by", f"{self.loaded_by}{f' ({self.note})' if self.note else ''}"),
            ("downloaded", f"{self.downloaded / 1e6:,.1f} MB"),
            ("seconds", ", ".join(f"{name} {took:.2f}" for name, took in self.seconds.items())),
        ]
        if resolution["substituted"]:
            shown.insert(2, ("instead of", str(resolution["canonical"])))
        if self.adapter:
            shown.insert(2, ("with adapter", adapter_line(self.adapter)))
        if self.mirror:
            shown.append(("4-bit mirror", self.mirror))
        if self.new_parameters:
            shown.append(("new weights", f"{len(self.new_parameters)}, not in the checkpoint"))
        if self.remote_code:
            shown.append(("remote code", "allowed"))
        return [*shown, *(("warning", text) for text in self.warnings)]

    def __str__(self) -> str:
        return two_columns(self.lines())


def make_folder_for(target: Path) -> None:
    """Make the folder a report will be written in.

    Raises:
        DiskError: it cannot be made or written to, or the target is a folder itself.
    """
    why = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            why = "it is a folder"
        elif not os.access(target.parent, os.W_OK):
            why = f"{target.parent} may not be written to"
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise DiskError(
            f"The report cannot be written to {target}.", why=why, next="Name another file."
        )


class PhaseTimer:
    """Seconds by phase, in the order the phases ran; `announce` hears each, "" after the last."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._announce = announce

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        self._announce(phase)
        try:
            yield
        finally:
            self._announce("")
            spent = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent


def _format_line(report: Report) -> str:
    if report.quantization is None:
        return f"{report.resolution['format']}, {report.dtype}"
    how = report.quantization.get("quant_method")
    if report.quantization.get("load_in_4bit"):
        how = report.quantization.get("bnb_4bit_quant_type")
    when = "quantized on load" if report.quantized_on_load else "as stored"
    return f"{report.resolution['format']}, {how}, {report.dtype}, {when}"


def adapter_line(adapter: Mapping[str, Any]) -> str:
    """An adapter by its repository and commit, or its folder."""
    if "repo_id" not in adapter:
        return str(adapter["folder"])
    return f"{adapter['repo_id']} @ {adapter['commit'][:12]}"


def _quantized_part(report: Report) -> str:
    count = report.parameters["quantized"]
    if not count:
        return ""
    in_4bit = (report.quantization or {}).get("load_in_4bit")
    return f" ({count:,} in {4 if in_4bit else 8} bits)"


def two_columns(lines: Sequence[tuple[str, str]]) -> str:
    """Names and values under each other."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def file_records(checkpoint: Checkpoint) -> tuple[FileRecord, ...]:
    """The files that were read and, in the cache, their hashes (the blobs' names)."""
    return tuple(
        FileRecord(name, (checkpoint.folder / name).stat().st_size, blob_hash(path))
        for name in checkpoint.files.all
        if (path := checkpoint.folder / name).exists()
    )


def blob_hash(path: Path) -> str | None:
    """The hash a cache file's blob is named by, or None outside a cache."""
    target = path.resolve()
    name = target.name
    if target.parent.name != "blobs" and target.parent.parent.name != "blobs":
        return None
    is_hash = len(name) in (40, 64) and set(name) <= set("0123456789abcdef")
    return name if is_hash else None


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_hash_of(path: Path) -> str:
    """SHA-1 of the file as git's blob: what the Hub names small files by."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(checkpoint: Checkpoint) -> str | None:
    """SHA-256 over every tensor's name, dtype, shape and the bytes at both its ends.

    Reads about 2 KiB a tensor, so it is cheap at load time; `mdl verify` reads everything.
    None for pickles, whose tensors cannot be read without running them.
    """
    if checkpoint.files.pickled:
        return None
    digest = hashlib.sha256()
    where = {t.name: (file, t) for file, h in checkpoint.headers.items() for t in h.tensors}
    with contextlib.ExitStack() as stack:
        streams = {}
        for file in checkpoint.headers:
            streams[file] = stack.enter_context((checkpoint.folder / file).open("rb"))
        starts = {file: 8 + int.from_bytes(stream.read(8), "little")
                  for file, stream in streams.items()}  # fmt: skip
        for name in sorted(where):
            file, tensor = where[name]
            digest.update(f"{name}|{tensor.dtype}|{tensor.shape}|".encode())
            for first, count in _samples(tensor):
                streams[file].seek(starts[file] + first)
                digest.update(streams[file].read(count))
    return digest.hexdigest()


def _samples(tensor: TensorInfo) -> list[tuple[int, int]]:
    if tensor.bytes <= 2 * SAMPLE:
        return [(tensor.start, tensor.bytes)]
    return [(tensor.start, SAMPLE), (tensor.end - SAMPLE, SAMPLE)]
