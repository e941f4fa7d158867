"""What a load would do, before it does: downloads, disk, memory on each device.

The model is built without weights from its configuration (on the meta device), so the numbers
come from the very modules that would be filled. Headers of weights that are not here are fetched
by range.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.errors import LoadError
from mdl.loader.build import model_class, model_config, quantization_on_load
from mdl.loader.checkpoint import Checkpoint, read_json
from mdl.loader.devices import Device, find_devices
from mdl.loader.fetch import Download, Hub, existing, fetch_small, hub_errors
from mdl.loader.files import Needed
from mdl.loader.headers import Header, parse_header
from mdl.loader.memory import (
    Memory,
    kv_cache_bytes,
    lora_parameters,
    quantized_bytes,
    shape_of,
    training_bytes,
)
from mdl.loader.report import two_columns
from mdl.loader.request import LoadRequest
from mdl.loader.sources import Answer, answer
from mdl.settings import Settings, load_settings

DEFAULT_TOKENS = 2048
LORA_RANK = 16


@dataclass(frozen=True)
class LoadPlan:
    """What a load would fetch and need; sizes in bytes. `fits` names what is too small, if any."""

    requested: Mapping[str, Any]
    resolution: Mapping[str, Any]
    repo_id: str
    commit: str | None
    folder: str | None
    from_mirror: bool
    download_bytes: int
    download_files: tuple[str, ...]
    disk_free: int
    mirror_bytes: int
    parameters: int
    dtype: str
    format: str
    tokens: int
    memory: Memory
    devices: tuple[Device, ...]
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        table = dict(self.__dict__)
        table["memory"] = self.memory.to_json()
        table["devices"] = [device.__dict__ for device in self.devices]
        return {**table, "fits": self.fits}

    def lines(self) -> list[tuple[str, str]]:
        """The readable table: what, and its value."""
        where = "the local 4-bit mirror" if self.from_mirror else self.folder or "the Hub"
        memory = self.memory
        shown = [
            ("requested", str(self.resolution["requested"])),
            ("would load", f"{self.repo_id}{f' @ {self.commit[:12]}' if self.commit else ''}"),
            ("from", where),
            ("to fetch", f"{_mb(self.download_bytes)} in {len(self.download_files)} files"),
            ("disk free", _mb(self.disk_free)),
            ("parameters", f"{self.parameters:,}, {self.format}, {self.dtype}"),
            ("weights", _mb(memory.weights)),
            ("KV cache", f"{_mb(memory.kv_cache)} at {self.tokens} tokens"),
            ("training", f"{_mb(memory.training)} more for a step at {self.tokens} tokens"),
        ]
        if self.mirror_bytes:
            shown.append(("mirror", f"{_mb(self.mirror_bytes)} to write, once"))
        shown += [(d.name, f"{_mb(d.free)} free of {_mb(d.total)}") for d in self.devices]
        return [*shown, *(("too small", text) for text in self.problems)]

    def __str__(self) -> str:
        return two_columns(self.lines())


def make_plan(request: LoadRequest, settings: Settings | None = None) -> LoadPlan:
    """Plan a load. Fetches the small files and the weights' headers, no weights.

    Raises:
        MdlError: as the load itself would refuse.
    """
    found = answer(request, settings or load_settings(), purpose="plan")
    with tempfile.TemporaryDirectory(prefix="mdl-plan-") as scratch:
        checkpoint = found.source.checkpoint or _remote_checkpoint(found, request, Path(scratch))
        return plan_checkpoint(checkpoint, request, found)


def plan_checkpoint(checkpoint: Checkpoint, request: LoadRequest, found: Answer) -> LoadPlan:
    """The plan of a checkpoint whose configuration and headers are known."""
    on_load = quantization_on_load(checkpoint, request)
    model, packed = empty_model(checkpoint, request)
    weights = weight_bytes(model, packed, double_quant=_double_quant(checkpoint, request))
    tokens = request.max_seq_length or DEFAULT_TOKENS
    dtype = request.dtype or checkpoint.dtype or "float32"
    memory = _memory(checkpoint, weights, tokens, dtype, is_4bit=_is_4bit(checkpoint, request))
    keeps_mirror = (
        on_load is not None and request.wants_4bit and request.quantize_once
        and found.source.commit is not None
    )  # fmt: skip
    download = found.source.download
    free = shutil.disk_usage(existing(found.settings.cache_root)).free
    devices = find_devices(request.device_map)
    to_write = (download.bytes if download else 0) + (weights if keeps_mirror else 0)
    return LoadPlan(
        requested=request.to_json(),
        resolution=found.resolution.to_json(),
        repo_id=found.source.repo_id,
        commit=found.source.commit,
        folder=None if download else str(checkpoint.folder),
        from_mirror=found.source.mirror,
        download_bytes=download.bytes if download else 0,
        download_files=tuple(file.path for file in download.missing) if download else (),
        disk_free=free,
        mirror_bytes=weights if keeps_mirror else 0,
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=dtype,
        format=found.resolution.format,
        tokens=tokens,
        memory=memory,
        devices=devices,
        problems=tuple(_problems(to_write, free, memory, devices)),
    )


def empty_model(checkpoint: Checkpoint, request: LoadRequest) -> tuple[Any, frozenset[str]]:
    """The model as it would be built, on the meta device, and the weights bitsandbytes packs.

    Raises:
        LoadError: the configuration is none that transformers can build.
    """
    import torch

    kind, saved_from = model_class(checkpoint, request)
    config = model_config(checkpoint, request)
    dtype = getattr(torch, request.dtype or checkpoint.dtype or "float32")
    quantization = quantization_on_load(checkpoint, request) or checkpoint.quantization
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = kind(config) if saved_from else kind.from_config(config)  # type: ignore[attr-defined] # an auto class
    finally:
        torch.set_default_dtype(before)
    packed = _packed_names(model, quantization) if _is_4bit(checkpoint, request) else ()
    return model, frozenset(packed)


def weight_bytes(model: Any, packed: frozenset[str], *, double_quant: bool) -> int:
    """Bytes of all parameters and buffers, tied ones once, packed ones packed."""
    total = 0
    for name, parameter in model.named_parameters():
        if name in packed:
            total += quantized_bytes(parameter.numel(), double_quant=double_quant)
        else:
            total += parameter.numel() * parameter.element_size()
    for buffer in model.buffers():
        total += buffer.numel() * buffer.element_size()
    return total


def _packed_names(model: Any, quantization: Any) -> list[str]:
    """The weights that bitsandbytes would pack, by the rule of transformers' quantizer."""
    import torch
    from transformers.quantizers import AutoHfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    if isinstance(quantization, Mapping):
        quantization = AutoHfQuantizer.merge_quantization_configs(dict(quantization), None)
    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
    skipped = quantizer.get_modules_to_not_convert(
        model, quantization.llm_int8_skip_modules, getattr(model, "_keep_in_fp32_modules", None)
    )
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and should_convert_module(name, skipped)
    ]


def _is_4bit(checkpoint: Checkpoint, request: LoadRequest) -> bool:
    return checkpoint.is_bnb_4bit or request.wants_4bit


def _double_quant(checkpoint: Checkpoint, request: LoadRequest) -> bool:
    if checkpoint.quantization is not None:
        return bool(checkpoint.quantization.get("bnb_4bit_use_double_quant"))
    return request.quantization.double_quant


def _memory(
    checkpoint: Checkpoint, weights: int, tokens: int, dtype: str, *, is_4bit: bool
) -> Memory:
    shape = shape_of(checkpoint.config)
    if shape is None:
        return Memory(weights, 0, 0)
    element = 4 if dtype == "float32" else 2
    everything = weights // element
    trained = lora_parameters(shape, LORA_RANK) if is_4bit else everything
    # Full fine-tuning keeps gradients and moments in the weights' dtype, LoRA in float32.
    training = training_bytes(
        shape, trained, tokens=tokens, element=element, master=4 if is_4bit else element
    )
    if is_4bit:
        training += trained * 4
    return Memory(weights, kv_cache_bytes(shape, tokens, element=element), training)


def _problems(
    to_write: int, disk_free: int, memory: Memory, devices: tuple[Device, ...]
) -> list[str]:
    problems = []
    if to_write > disk_free:
        problems.append(f"the disk: {_mb(to_write)} to write, {_mb(disk_free)} free")
    room = sum(device.free for device in devices)
    if memory.total > room:
        smaller = memory.weights * 0.28
        hint = "; in 4 bits it would fit" if smaller + memory.kv_cache <= room else ""
        problems.append(f"memory: {_mb(memory.total)} needed, {_mb(room)} free{hint}")
    return problems


def _remote_checkpoint(found: Answer, request: LoadRequest, scratch: Path) -> Checkpoint:
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


def remote_header(hub: Hub, download: Download, name: str) -> Header:
    """The header of a weight file on the Hub, fetched by range and checked against its size.

    Raises:
        VerificationError: the header lies about the file.
    """
    from mdl.loader.fetch import read_range
    from mdl.loader.headers import header_length

    size = next(file.size for file in download.files if file.path == name)
    with hub_errors(download.repo_id):
        length = header_length(read_range(hub, download, name, 0, 8), size, name)
        text = read_range(hub, download, name, 8, length)
    return parse_header(text, size - 8 - length, name)


def check_fits(plan: LoadPlan) -> None:
    """Refuse a load that cannot fit, before a byte is fetched.

    Raises:
        LoadError: memory or disk is too small; the message says by how much.
    """
    if plan.problems:
        raise LoadError(
            f"{plan.repo_id} does not fit here.",
            why="; ".join(plan.problems),
            next="Ask for 4-bit weights, a shorter max_seq_length, or a device with more memory.",
            details={"plan": plan.to_json()},
        )


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
