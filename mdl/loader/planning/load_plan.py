"""What a load would do, before it does it: downloads, disk space, memory on each device.

Sizes come from the model's modules (see `footprint`); the headers of weights that are not here are
read from the Hub with range requests.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.errors import LoadError
from mdl.formats import find_apart, may_be_apart, shape_of
from mdl.formatting import human_size
from mdl.loader.build import FALLBACKS, check_quantization
from mdl.loader.checkpoint import Checkpoint, open_checkpoint, read_json
from mdl.loader.devices import Device, find_devices, has_fp8, other_devices
from mdl.loader.disk import RESERVE, free_space
from mdl.loader.planning.fit import DEFAULT_TOKENS, MemoryNeed, what_would_fit
from mdl.loader.planning.footprint import Footprint, footprint
from mdl.loader.planning.memory import MemoryEstimate, lora_parameters, training_bytes
from mdl.loader.quantize_once import keeps_local_copy
from mdl.loader.report import adapter_line, two_columns
from mdl.loader.request import LoadRequest
from mdl.loader.source import (
    LocatedModel,
    download_gguf_header,
    download_small_files,
    locate_model,
    read_remote_header,
    remote_tensor_names,
)
from mdl.resolver import Resolution
from mdl.settings import Settings

LORA_RANK = 16


@dataclass(frozen=True)
class Dequantization:
    """Stored weights that become floats: `stored_bytes` of `format` in `dtype`, and why.

    `allowed` is False if the load refuses to do it.
    """

    format: str
    stored_bytes: int
    dtype: str
    reason: str
    allowed: bool


@dataclass(frozen=True)
class LoadPlan:
    """What a load would download and need; sizes in bytes.

    `memory_short` is what the devices lack for weights and KV cache; `would_fit` lists what fits
    instead. `devices` is empty if there is no limit to check against. `adapter` describes the
    adapter that goes on the model. `dequantized` is set if stored weights become floats.
    """

    requested: Mapping[str, Any]
    resolution: Mapping[str, Any]
    repo_id: str
    commit: str | None
    folder: str | None
    from_local_copy: bool
    download_bytes: int
    download_files: tuple[str, ...]
    cache_root: str
    disk_free: int
    local_copy_bytes: int
    parameters: int
    dtype: str
    format: str
    tokens: int
    memory: MemoryEstimate
    devices: tuple[Device, ...]
    memory_short: int
    would_fit: tuple[str, ...]
    adapter: Mapping[str, Any] | None = None
    dequantized: Dequantization | None = None

    @property
    def disk_short(self) -> int:
        """Bytes missing on the disk for the download, the adapter's included."""
        needed = self.download_bytes + (self.adapter or {}).get("download_bytes", 0)
        return max(0, needed + RESERVE - self.disk_free) if needed else 0

    @property
    def fits(self) -> bool:
        refused = self.dequantized is not None and not self.dequantized.allowed
        return not (self.memory_short or self.disk_short or refused)

    def to_json(self) -> dict[str, Any]:
        table = dict(self.__dict__)
        table["memory"] = self.memory.to_json()
        table["devices"] = [device.__dict__ for device in self.devices]
        table["dequantized"] = self.dequantized and self.dequantized.__dict__
        return {**table, "disk_short": self.disk_short, "fits": self.fits}

    def lines(self) -> list[tuple[str, str]]:
        """The rows of the readable table: name and value."""
        origin = "the local 4-bit copy" if self.from_local_copy else self.folder or "the Hub"
        memory = self.memory
        rows = [
            ("requested", str(self.requested["name"])),
            ("would load", f"{self.repo_id}{f' @ {self.commit[:12]}' if self.commit else ''}"),
            ("from", origin),
            ("to download", f"{human_size(self.download_bytes)} in {len(self.download_files)} "
             "files"),
            ("disk free", human_size(self.disk_free)),
            ("parameters", f"{self.parameters:,}, {self.format}, {self.dtype}"),
            ("weights", human_size(memory.weights)),
            ("KV cache", f"{human_size(memory.kv_cache)} at {self.tokens} tokens"),
            ("training", f"{human_size(memory.training)} more for a step at {self.tokens} tokens"),
        ]  # fmt: skip
        if self.adapter is not None:
            size = self.adapter.get("download_bytes", 0)
            more = f", {human_size(size)} to download" if size else ""
            rows.insert(2, ("with adapter", adapter_line(self.adapter) + more))
        if (change := self.dequantized) is not None:
            rows.append(("dequantized", f"from {human_size(change.stored_bytes)} in "
                         f"{change.format} to {change.dtype}: {change.reason}"))  # fmt: skip
        if self.local_copy_bytes:
            rows.append(("local copy", f"{human_size(self.local_copy_bytes)} to write, once"))
        for d in self.devices:
            rows.append((d.name, f"{human_size(d.free)} free of {human_size(d.total)}"))
        if self.disk_short:
            rows.append(("too small", f"the disk, by {human_size(self.disk_short)}"))
        if self.memory_short:
            rows.append(("too small", f"memory, by {human_size(self.memory_short)}"))
        return [*rows, *(("would fit", text) for text in self.would_fit)]

    def __str__(self) -> str:
        return two_columns(self.lines())


def make_plan(request: LoadRequest, settings: Settings | None = None) -> LoadPlan:
    """Plan a load. Downloads small files and the weights' headers, but no weights.

    Raises:
        MdlError: whatever the load itself would raise.
    """
    return plan_model(locate_model(request, settings, purpose="plan", download_adapter=False))


def plan_model(located: LocatedModel) -> LoadPlan:
    """Plan the load of a located model.

    Raises:
        MdlError: as `make_plan`.
    """
    check_fp8(located)
    check_quantization(located.config, located.request)
    check_experts(located)
    with tempfile.TemporaryDirectory(prefix="mdl-plan-") as scratch:
        checkpoint = located.checkpoint or _remote_checkpoint(located, Path(scratch))
        return _plan(located, checkpoint)


def check_fp8(located: LocatedModel) -> None:
    """Reject quantizing to fp8 without a GPU that supports it.

    Raises:
        LoadError: fp8 is requested, the weights are not stored in it, and no GPU here has it.
    """
    if located.request.format == "fp8" and located.resolution.quantize_on_load and not has_fp8():
        raise LoadError(
            f"{located.request.name} cannot be quantized to fp8 here.",
            why="transformers quantizes to fp8 only on GPUs of compute capability 8.9 and above.",
            next="Load 8-bit, 4-bit or 16-bit weights, or a repository that is stored in fp8: "
            "without such a GPU it is dequantized to 16 bits.",
        )


def check_experts(located: LocatedModel) -> None:
    """Reject a mixture whose experts are packed in a layout that transformers cannot load.

    Raises:
        LoadError: it is one, by the names of its tensors.
        MdlError: they cannot be read.
    """
    config, download = located.config, located.download
    if not may_be_apart(config):
        return
    if located.checkpoint is not None:
        names = tuple(located.checkpoint.tensors)
    else:
        names = remote_tensor_names(located.hub, download) if download is not None else ()
    apart = find_apart(config, names)
    if apart is None:
        return
    again = "the model that it was made from"
    if located.resolution.canonical != located.repo_id:
        again = f"{located.resolution.canonical} without --4bit or load_in_4bit"
    raise LoadError(
        f"transformers cannot load {located.repo_id}: its experts are packed one by one.",
        why=f"It has {apart.tensor}; transformers has all experts of a layer in one tensor.",
        next=f"Load {again}, or use {' or '.join(apart.runtimes)}: `mdl pull "
        f"{located.repo_id} --exact` downloads it for that.",
        details={"repo_id": located.repo_id, "runtimes": list(apart.runtimes)},
    )


def _plan(located: LocatedModel, checkpoint: Checkpoint) -> LoadPlan:
    """The plan for a checkpoint of which only the configuration and the headers are needed."""
    size = footprint(checkpoint)
    need = _need(checkpoint, size)
    copies = located.commit is not None and keeps_local_copy(checkpoint)
    download = located.download
    devices = find_devices(located.request, packed=checkpoint.becomes_4bit)
    free = sum(device.free for device in devices or ())
    short = max(0, need.total - free) if devices is not None else 0
    return LoadPlan(
        requested=located.original_request.to_json(),
        resolution=located.resolution.to_json(),
        repo_id=located.repo_id,
        commit=located.commit,
        folder=None if download else str(checkpoint.folder),
        from_local_copy=located.is_local_copy,
        download_bytes=located.bytes_to_download,
        download_files=tuple(file.path for file in download.missing) if download else (),
        cache_root=str(located.settings.cache_root),
        disk_free=free_space(located.settings.cache_root),
        local_copy_bytes=size.weights if copies else 0,
        parameters=size.parameters,
        dtype=checkpoint.dtype,
        format=_stored_as(located.resolution, checkpoint),
        tokens=need.tokens,
        memory=_memory(need, is_4bit=checkpoint.becomes_4bit),
        devices=devices or (),
        memory_short=short,
        would_fit=what_would_fit(need, free, other_devices(devices or ())) if short else (),
        adapter=None if located.adapter is None else located.adapter.to_json(),
        dequantized=_dequantization(checkpoint, size.dequantized) if size.dequantized else None,
    )


def _stored_as(resolution: Resolution, checkpoint: Checkpoint) -> str:
    """The format to load; of a folder, which is asked for in 16 bits, what its weights are in."""
    if resolution.format == "16bit" and checkpoint.stored_format is not None:
        return resolution.weights or checkpoint.stored_format
    return resolution.label


def _dequantization(checkpoint: Checkpoint, reason: str) -> Dequantization:
    """A fallback has to be allowed; GGUF and compressed-tensors are read so everywhere."""
    fallback = str((checkpoint.quantization or {}).get("quant_method")) in FALLBACKS
    return Dequantization(
        format=str(checkpoint.stored_format),
        stored_bytes=checkpoint.stored_bytes,
        dtype=checkpoint.dtype,
        reason=reason,
        allowed=checkpoint.request.allow_dequantize or not fallback,
    )


def _need(checkpoint: Checkpoint, size: Footprint) -> MemoryNeed:
    return MemoryNeed(
        weights=size.weights,
        in_4bit=size.in_4bit,
        shape=shape_of(checkpoint.config),
        tokens=checkpoint.request.max_seq_length or DEFAULT_TOKENS,
        element=4 if checkpoint.dtype == "float32" else 2,
    )


def _memory(need: MemoryNeed, *, is_4bit: bool) -> MemoryEstimate:
    if need.shape is None:
        return MemoryEstimate(need.weights, 0, 0)
    everything = need.weights // need.element
    trained = lora_parameters(need.shape, LORA_RANK) if is_4bit else everything
    # Full fine-tuning has gradients and moments in the weights' dtype, LoRA in float32.
    training = training_bytes(
        need.shape,
        trained,
        tokens=need.tokens,
        element=need.element,
        master=4 if is_4bit else need.element,
    )
    if is_4bit:
        training += trained * 4
    return MemoryEstimate(need.weights, need.kv_cache, training)


def _remote_checkpoint(located: LocatedModel, scratch: Path) -> Checkpoint:
    """The checkpoint without its weights: small files in `scratch`, headers from the Hub.

    Raises:
        LoadError, VerificationError: the configuration or a header is invalid.
    """
    download = located.download
    assert download is not None
    if download.gguf is not None:
        download_gguf_header(located.hub, download, scratch)
        return open_checkpoint(scratch, located.request, download.gguf)
    download_small_files(located.hub, download, scratch)
    needed = download.needed
    weights = needed.weights.files if not needed.pickled else ()
    headers = {name: read_remote_header(located.hub, download, name) for name in weights}
    config = read_json(scratch / "config.json")
    return Checkpoint(scratch, located.request, config, needed, headers)
