"""The devices of this machine, and whether a download could ever fit on them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mdl.errors import LoadError
from mdl.loader.fetch import Download
from mdl.loader.request import LoadRequest

# transformers' arguments that place the weights themselves.
PARALLEL = frozenset(("tp_plan", "tp_size", "device_mesh", "distributed_config"))
PACKED = 0.28  # bytes of a 4-bit model per byte of its 16-bit weights, statistics included


@dataclass(frozen=True)
class Device:
    """Memory of one device, in bytes."""

    name: str
    total: int
    free: int


def find_devices(device_map: Any) -> tuple[Device, ...]:
    """The devices a model could go to: every GPU, else the machine's memory."""
    import torch

    if torch.cuda.is_available() and device_map not in ("cpu", {"": "cpu"}):
        found = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            found.append(Device(f"cuda:{index}", total, free))
        return tuple(found)
    import psutil

    memory = psutil.virtual_memory()
    return (Device("cpu", memory.total, memory.available),)


def choose_device_map(asked: Any, *, gpus: int, local_rank: int | None, parallel: bool) -> Any:
    """The device map to load with.

    Args:
        asked: the caller's; None leaves the choice to mdl.
        gpus: CUDA devices here.
        local_rank: this process's rank on the machine under torchrun, else None.
        parallel: tensor parallelism or FSDP places the weights; a device map would contradict it.

    One rank, one whole model on its own device; one GPU, all of it; several, spread by size; none,
    the CPU (None, as transformers means it).
    """
    automatic = asked in (None, "auto", "balanced", "balanced_low_0", "sequential")
    if parallel or not automatic:
        return asked
    if gpus == 0:
        return None
    if local_rank is not None:
        return {"": local_rank}
    if asked is None:
        return {"": 0} if gpus == 1 else "auto"
    return asked


def device_map_of(request: LoadRequest) -> Any:
    """`choose_device_map` for a request in this process."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    return choose_device_map(
        request.device_map,
        gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        local_rank=int(rank) if rank is not None else None,
        parallel=bool(PARALLEL & set(request.extra)),
    )


def check_room(download: Download, request: LoadRequest) -> None:
    """Refuse a download whose weights no device of this machine could hold, before it starts.

    The devices' whole memory counts, not what is free now: `mdl load --dry-run` is finer.

    Raises:
        LoadError: the weights are larger than all devices together.
    """
    offloads = isinstance(request.device_map, Mapping) and "disk" in request.device_map.values()
    if offloads or "offload_folder" in request.extra:
        return
    weights = sum(file.size for file in download.files if file.path in download.needed.weights)
    needed = int(weights * PACKED) if request.wants_4bit and weights else weights
    devices = find_devices(request.device_map)
    room = sum(device.total for device in devices)
    if needed > room:
        raise LoadError(
            f"{download.repo_id} does not fit on this machine: its weights need "
            f"{needed / 1e9:.1f} GB, {', '.join(d.name for d in devices)} "
            f"{'has' if len(devices) == 1 else 'have'} {room / 1e9:.1f} GB.",
            why="It would be refused after the whole download.",
            next="Ask for 4-bit weights, or give device_map and offload_folder.",
            details={"needed": needed, "room": room},
        )
