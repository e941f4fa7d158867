"""What a load would do, before it does: downloads, disk, memory on each device.

The model is built without weights from its configuration (on the meta device), so the numbers
come from the very modules that would be filled. Headers of weights that are not here are fetched
by range.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mdl.loader.adapter import find_adapter
from mdl.loader.build import check_fp8
from mdl.loader.checkpoint import Checkpoint, Header, Needed, parse_header, read_json
from mdl.loader.devices import Device, find_devices
from mdl.loader.planning.fit import (
    DEFAULT_TOKENS,
    MemoryNeed,
    megabytes,
    other_devices,
    what_would_fit,
)
from mdl.loader.planning.footprint import Footprint, footprint
from mdl.loader.planning.memory import MemoryEstimate, lora_parameters, shape_of, training_bytes
from mdl.loader.quantize_once import is_to_keep
from mdl.loader.report import adapter_line, two_columns
from mdl.loader.request import LoadRequest
from mdl.loader.source import (
    RESERVE,
    Download,
    HubAccess,
    LocatedModel,
    existing,
    fetch_small,
    hub_errors,
)
from mdl.settings import Settings, load_settings

LORA_RANK = 16


@dataclass(frozen=True)
class LoadPlan:
    """What a load would fetch and need; sizes in bytes.

    `memory_short` is what the devices lack for weights and KV cache; `would_fit` says what this
    machine has room for instead. `devices` is empty where there is no limit to hold it against.
    `adapter` is what goes on the model, where the name was an adapter's.
    """

    requested: Mapping[str, Any]
    resolution: Mapping[str, Any]
    repo_id: str
    commit: str | None
    folder: str | None
    from_mirror: bool
    download_bytes: int
    download_files: tuple[str, ...]
    cache_root: str
    disk_free: int
    mirror_bytes: int
    parameters: int
    dtype: str
    format: str
    tokens: int
    memory: MemoryEstimate
    devices: tuple[Device, ...]
    memory_short: int
    would_fit: tuple[str, ...]
    adapter: Mapping[str, Any] | None = None

    @property
    def disk_short(self) -> int:
        """Bytes to fetch, an adapter's too, that the disk has no room for."""
        needed = self.download_bytes + (self.adapter or {}).get("download_bytes", 0)
        return max(0, needed + RESERVE - self.disk_free) if needed else 0

    @property
    def fits(self) -> bool:
        return not (self.memory_short or self.disk_short)

    def to_json(self) -> dict[str, Any]:
        table = dict(self.__dict__)
        table["memory"] = self.memory.to_json()
        table["devices"] = [device.__dict__ for device in self.devices]
        return {**table, "disk_short": self.disk_short, "fits": self.fits}

    def lines(self) -> list[tuple[str, str]]:
        """The readable table: what, and its value."""
        where = "the local 4-bit mirror" if self.from_mirror else self.folder or "the Hub"
        memory = self.memory
        shown = [
            ("requested", str(self.requested["name"])),
            ("would load", f"{self.repo_id}{f' @ {self.commit[:12]}' if self.commit else ''}"),
            ("from", where),
            ("to fetch", f"{megabytes(self.download_bytes)} in {len(self.download_files)} files"),
            ("disk free", megabytes(self.disk_free)),
            ("parameters", f"{self.parameters:,}, {self.format}, {self.dtype}"),
            ("weights", megabytes(memory.weights)),
            ("KV cache", f"{megabytes(memory.kv_cache)} at {self.tokens} tokens"),
            ("training", f"{megabytes(memory.training)} more for a step at {self.tokens} tokens"),
        ]
        if self.adapter is not None:
            fetched = self.adapter.get("download_bytes", 0)
            more = f", {megabytes(fetched)} to fetch" if fetched else ""
            shown.insert(2, ("with adapter", adapter_line(self.adapter) + more))
        if self.mirror_bytes:
            shown.append(("mirror", f"{megabytes(self.mirror_bytes)} to write, once"))
        for d in self.devices:
            shown.append((d.name, f"{megabytes(d.free)} free of {megabytes(d.total)}"))
        if self.disk_short:
            shown.append(("too small", f"the disk, by {megabytes(self.disk_short)}"))
        if self.memory_short:
            shown.append(("too small", f"memory, by {megabytes(self.memory_short)}"))
        return [*shown, *(("would fit", text) for text in self.would_fit)]

    def __str__(self) -> str:
        return two_columns(self.lines())


def make_plan(request: LoadRequest, settings: Settings | None = None) -> LoadPlan:
    """Plan a load. Fetches the small files and the weights' headers, no weights.

    Raises:
        MdlError: as the load itself would refuse.
    """
    found = find_adapter(request, settings or load_settings(), purpose="plan", fetch=False)
    plan = plan_answer(found.answer, found.request)
    if found.adapter is None:
        return plan
    return replace(plan, requested=request.to_json(), adapter=found.adapter.to_json())


def plan_answer(found: LocatedModel, request: LoadRequest) -> LoadPlan:
    """The plan of what a request resolved to.

    Raises:
        MdlError: as `make_plan`.
    """
    check_fp8(request, on_load=found.resolution.quantize_on_load)
    with tempfile.TemporaryDirectory(prefix="mdl-plan-") as scratch:
        checkpoint = found.source.checkpoint or _remote_checkpoint(found, request, Path(scratch))
        return plan_checkpoint(checkpoint, request, found)


def plan_checkpoint(checkpoint: Checkpoint, request: LoadRequest, found: LocatedModel) -> LoadPlan:
    """The plan of a checkpoint whose configuration and headers are known."""
    size = footprint(checkpoint, request)
    is_4bit = checkpoint.is_bnb_4bit or request.wants_4bit
    need = _need(checkpoint, request, size)
    keeps_mirror = found.source.commit is not None and is_to_keep(checkpoint, request)
    download = found.source.download
    devices = find_devices(request, packed=is_4bit)
    room = sum(device.free for device in devices or ())
    short = max(0, need.total - room) if devices is not None else 0
    return LoadPlan(
        requested=request.to_json(),
        resolution=found.resolution.to_json(),
        repo_id=found.source.repo_id,
        commit=found.source.commit,
        folder=None if download else str(checkpoint.folder),
        from_mirror=found.source.mirror,
        download_bytes=found.source.bytes_to_fetch,
        download_files=tuple(file.path for file in download.missing) if download else (),
        cache_root=str(found.settings.cache_root),
        disk_free=shutil.disk_usage(existing(found.settings.cache_root)).free,
        mirror_bytes=size.weights if keeps_mirror else 0,
        parameters=size.parameters,
        dtype=_dtype(checkpoint, request),
        format=found.resolution.format,
        tokens=need.tokens,
        memory=_memory(need, is_4bit=is_4bit),
        devices=devices or (),
        memory_short=short,
        would_fit=what_would_fit(need, room, other_devices(devices or ())) if short else (),
    )


def _dtype(checkpoint: Checkpoint, request: LoadRequest) -> str:
    return request.dtype or checkpoint.dtype or "float32"


def _need(checkpoint: Checkpoint, request: LoadRequest, size: Footprint) -> MemoryNeed:
    return MemoryNeed(
        weights=size.weights,
        in_4bit=size.in_4bit,
        shape=shape_of(checkpoint.config),
        tokens=request.max_seq_length or DEFAULT_TOKENS,
        element=4 if _dtype(checkpoint, request) == "float32" else 2,
    )


def _memory(need: MemoryNeed, *, is_4bit: bool) -> MemoryEstimate:
    if need.shape is None:
        return MemoryEstimate(need.weights, 0, 0)
    everything = need.weights // need.element
    trained = lora_parameters(need.shape, LORA_RANK) if is_4bit else everything
    # Full fine-tuning keeps gradients and moments in the weights' dtype, LoRA in float32.
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


def _remote_checkpoint(found: LocatedModel, request: LoadRequest, scratch: Path) -> Checkpoint:
    """The checkpoint of a download that was not done: small files fetched, headers by range.

    Raises:
        LoadError, VerificationError: the configuration or a header is not what it should be.
    """
    download = found.source.download
    assert download is not None
    folder = fetch_small(found.hub, download, scratch)
    weights = download.needed.weights if not download.needed.pickled else ()
    headers = {name: remote_header(found.hub, download, name) for name in weights}
    files = Needed(tuple(headers), download.needed.rest, download.needed.pickled)
    return Checkpoint(folder, read_json(folder / "config.json"), files, headers)


def remote_header(hub: HubAccess, download: Download, name: str) -> Header:
    """The header of a weight file on the Hub, fetched by range and checked against its size.

    Raises:
        VerificationError: the header lies about the file.
    """
    from mdl.loader.checkpoint import header_length
    from mdl.loader.source import read_range

    size = next(file.size for file in download.files if file.path == name)
    with hub_errors(download.repo_id):
        length = header_length(read_range(hub, download, name, 0, 8), size, name)
        text = read_range(hub, download, name, 8, length)
    return parse_header(text, size - 8 - length, name)
