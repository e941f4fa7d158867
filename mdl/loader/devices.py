"""This machine's devices: which of them a load may fill, and how much memory is free."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdl.errors import UsageError
from mdl.loader.request import LoadRequest

# transformers' arguments that place the weights themselves.
PARALLEL = frozenset(("tp_plan", "tp_size", "device_mesh", "distributed_config"))
SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Device:
    """Memory of one device, in bytes."""

    name: str
    total: int
    free: int


def choose_device_map(requested: Any, *, gpus: int, local_rank: int | None, parallel: bool) -> Any:
    """The device map to load with.

    Args:
        requested: the caller's; None leaves the choice to mdl.
        gpus: number of CUDA devices.
        local_rank: this process's rank on the machine under torchrun, else None.
        parallel: transformers distributes the weights among ranks; no device map is chosen then.

    Each rank gets a whole model on its own GPU. Otherwise one GPU gets all of it, several share it,
    and without GPUs it goes to the CPU (None to transformers).
    """
    automatic = requested is None or requested in SPREAD
    if parallel or not automatic:
        return requested
    if gpus == 0:
        return None
    if local_rank is not None:
        return {"": local_rank}
    if requested is None:
        return {"": 0} if gpus == 1 else "auto"
    return requested


def device_map_of(request: LoadRequest) -> Any:
    """`choose_device_map` for a request in this process."""
    rank = os.environ.get("LOCAL_RANK")
    return choose_device_map(
        request.device_map,
        gpus=gpu_count(),
        local_rank=int(rank) if rank is not None else None,
        parallel=is_parallel(request),
    )


def is_parallel(request: LoadRequest) -> bool:
    """Whether transformers distributes the weights among ranks."""
    return bool(PARALLEL & set(request.extra))


def gpu_count() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_fp8() -> bool:
    """Whether the first GPU supports fp8 (compute capability 8.9), which transformers requires."""
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


def is_bfloat16_supported() -> bool:
    """Whether to train in bfloat16: on every CPU, and on GPUs that compute in it."""
    import torch

    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported()


is_bf16_supported = is_bfloat16_supported  # Unsloth has both names


def filled_devices(device_map: Any, *, gpus: int, packed: bool) -> tuple[str, ...] | None:
    """The names of the devices that a load with this device map may fill.

    Args:
        device_map: from `choose_device_map`.
        gpus: number of CUDA devices.
        packed: bitsandbytes weights, which transformers does not offload to main memory.

    None if there is no limit to check against: weights on the disk or the meta device, or devices
    whose memory mdl cannot measure.

    Raises:
        UsageError: it names something that is not a device.
    """
    if device_map is None:
        return ("cpu",)
    if isinstance(device_map, str) and device_map in SPREAD:
        cards = tuple(f"cuda:{index}" for index in range(gpus))
        return cards if cards and packed else (*cards, "cpu")
    places = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    names = {f"cuda:{place}" if isinstance(place, int) else str(place) for place in places}
    names = {"cuda:0" if name == "cuda" else name for name in names}
    for name in names:
        _check_device(name)
    known = all(name == "cpu" or name.startswith("cuda:") for name in names)
    return tuple(sorted(names)) if known else None


def _check_device(name: str) -> None:
    import torch

    if name == "disk":
        return
    try:
        torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"{name!r} is not a device.",
            next=f"Use cpu, cuda, cuda:N, {', '.join(SPREAD)}, or a mapping of modules to devices.",
        ) from error


def find_devices(request: LoadRequest, *, packed: bool) -> tuple[Device, ...] | None:
    """The devices that a load may fill and their free memory, within the caller's `max_memory`.

    None if there is no limit: weights offloaded to a folder, or distributed among ranks.

    Raises:
        UsageError: the device map names something that is not a device, or a GPU not here.
    """
    if "offload_folder" in request.extra or is_parallel(request):
        return None
    names = filled_devices(device_map_of(request), gpus=gpu_count(), packed=packed)
    if names is None:
        return None
    limits = _limits(request.extra.get("max_memory") or {})
    measured = (measure(name) for name in names)
    return tuple(Device(d.name, d.total, min(d.free, limits.get(d.name, d.free))) for d in measured)


def other_devices(used: Sequence[Device]) -> tuple[Device, ...]:
    """All devices of this machine but those used."""
    names = {device.name for device in used}
    all_names = [*(f"cuda:{index}" for index in range(gpu_count())), "cpu"]
    return tuple(measure(name) for name in all_names if name not in names)


def _limits(max_memory: Mapping[Any, int | str]) -> dict[str, int]:
    from accelerate.utils import convert_file_size_to_int

    try:
        return {
            f"cuda:{place}" if isinstance(place, int) else str(place): convert_file_size_to_int(
                size
            )
            for place, size in max_memory.items()
        }
    except (ValueError, AttributeError) as error:
        raise UsageError(
            f"Cannot parse max_memory={max_memory!r}.",
            why=str(error),
            next='Write it as {0: "20GiB", "cpu": "60GiB"}.',
        ) from error


def measure(name: str) -> Device:
    """The total and free memory of `cpu` or `cuda:N`.

    Raises:
        UsageError: this machine has no such GPU.
    """
    import torch

    if name != "cpu":
        index = name.removeprefix("cuda:")
        if not index.isdecimal() or int(index) >= gpu_count():
            raise UsageError(
                f"This machine has no device {name}.",
                why=f"torch {torch.__version__} sees {gpu_count()} CUDA devices.",
                next="Leave device_map out to let mdl choose, or use cpu.",
            )
        free, total = torch.cuda.mem_get_info(int(index))
        return Device(name, total, free)
    import psutil

    memory = psutil.virtual_memory()
    container = container_memory()
    return Device("cpu", memory.total, min(memory.available, container or memory.available))


def container_memory(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes this container may still allocate (Linux control groups); None without a limit.

    Reclaimable file pages do not count as used, just as in the kernel's own accounting.
    """
    for limit, used, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            maximum = int((root / limit).read_text())
            current = int((root / used).read_text())
            lines = (root / limit).with_name("memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no limit ("max"), or another version of the interface
            continue
        statistics = dict(line.split(maxsplit=1) for line in lines)
        return max(0, maximum - current + int(statistics.get(reclaimable, 0)))
    return None
