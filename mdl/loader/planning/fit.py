"""Too big is said before a byte of weights is fetched, with what would fit instead."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdl.errors import LoadError
from mdl.loader.checkpoint import Checkpoint
from mdl.loader.devices import Device, find_devices, gpu_count, measure
from mdl.loader.planning.memory import ModelShape, kv_cache_bytes, shape_of
from mdl.loader.request import LoadRequest
from mdl.loader.source import too_full

if TYPE_CHECKING:
    from mdl.loader.planning.load_plan import LoadPlan
    from mdl.loader.source import LocatedModel

DEFAULT_TOKENS = 2048


@dataclass(frozen=True)
class MemoryNeed:
    """What a load needs, in bytes; `in_4bit` is None where that is no other choice."""

    weights: int
    in_4bit: int | None
    shape: ModelShape | None
    tokens: int
    element: int

    @property
    def kv_cache(self) -> int:
        return self.kv_cache_at(self.tokens)

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache

    def kv_cache_at(self, tokens: int) -> int:
        if self.shape is None:
            return 0
        return kv_cache_bytes(self.shape, tokens, element=self.element)


def what_would_fit(need: MemoryNeed, room: int, elsewhere: Sequence[Device]) -> tuple[str, ...]:
    """The other ways to load that this machine has room for, each as a person would ask for it.

    Args:
        room: bytes free where the model would go.
        elsewhere: devices of this machine it would not go to as asked.
    """
    found = []
    tokens = longest_context(need, room)
    if tokens:
        found.append(f"max_seq_length={tokens}")
    if need.in_4bit is not None and need.in_4bit + need.kv_cache <= room:
        size = megabytes(need.in_4bit + need.kv_cache)
        found.append(f"4-bit weights (load_in_4bit=True, --4bit): {size}")
    found += [
        f"device_map={device.name!r}: {megabytes(device.free)} free"
        for device in elsewhere
        if need.total <= device.free
    ]
    return tuple(found)


def longest_context(need: MemoryNeed, room: int) -> int:
    """The most tokens, in steps of 256, whose KV cache fits beside the weights; 0 for none."""
    low, high = 0, need.tokens // 256
    while low < high:
        middle = (low + high + 1) // 2
        if need.weights + need.kv_cache_at(middle * 256) <= room:
            low = middle
        else:
            high = middle - 1
    return low * 256


def other_devices(used: Sequence[Device]) -> tuple[Device, ...]:
    """Every device of this machine that is not among those used."""
    names = {device.name for device in used}
    all_names = [*(f"cuda:{index}" for index in range(gpu_count())), "cpu"]
    return tuple(measure(name) for name in all_names if name not in names)


def at_most(found: "LocatedModel", request: LoadRequest) -> int:
    """An upper bound of the bytes a load needs, from file sizes or headers alone.

    It costs nothing, so that a model with room to spare waits for no plan.
    """
    tokens = request.max_seq_length or DEFAULT_TOKENS
    source = found.source
    if source.checkpoint is None:
        assert source.download is not None
        needed = source.download.needed.weights
        stored = sum(file.size for file in source.download.files if file.path in needed)
        # At most four times as wide as stored (fp8 as float32); the KV cache of a token is a
        # thousandth of the weights for a hidden size of 250, and less for every larger one.
        return int(stored * (4 + tokens / 1000))
    return _at_most_here(source.checkpoint, request, tokens)


def _at_most_here(checkpoint: Checkpoint, request: LoadRequest, tokens: int) -> int:
    asked = {"float64": 8, "float32": 4}.get(request.dtype or "", 2)
    if not checkpoint.headers or (checkpoint.quantization and not checkpoint.is_bnb_4bit):
        stored = sum((checkpoint.folder / f).stat().st_size for f in checkpoint.files.weights)
        weights = stored * 2 * asked
    else:
        weights = sum(max(t.bytes, t.numel * asked) for t in checkpoint.tensors.values())
    shape = shape_of(checkpoint.config)
    return weights + (kv_cache_bytes(shape, tokens, element=asked) if shape else 0)


def check_memory(found: "LocatedModel", request: LoadRequest) -> None:
    """Refuse a load that this machine has no room for, before its weights are fetched.

    The plan is made only where the sizes alone do not show that there is room.

    Raises:
        LoadError: too big, with what is needed, what is there and what would fit.
        MdlError: as the plan refuses.
    """
    if not request.check_memory:
        return
    checkpoint = found.source.checkpoint
    packed = request.wants_4bit or (checkpoint is not None and checkpoint.is_bnb_4bit)
    devices = find_devices(request, packed=packed)
    if devices is None or at_most(found, request) <= sum(device.free for device in devices):
        return
    from mdl.loader.planning.load_plan import plan_answer

    refuse_too_big(plan_answer(found, request))


def refuse_too_big(plan: "LoadPlan") -> None:
    """Refuse a plan that does not fit.

    Raises:
        LoadError: the memory is too small.
        DiskError: the disk is too small.
    """
    if plan.disk_short:
        raise too_full(plan.cache_root, plan.disk_free, plan.download_bytes)
    if plan.memory_short == 0:
        return
    names = ", ".join(device.name for device in plan.devices)
    memory = plan.memory
    ways = "; ".join(plan.would_fit) or f"a device with {megabytes(memory.total)} free"
    raise LoadError(
        f"{plan.repo_id} does not fit: it needs {megabytes(memory.total)}, "
        f"{megabytes(memory.total - plan.memory_short)} are free on {names}.",
        why=f"{megabytes(memory.weights)} of weights ({plan.dtype}, {plan.format}) and "
        f"{megabytes(memory.kv_cache)} of KV cache at {plan.tokens} tokens.",
        next=f"What would fit: {ways}. To try all the same: check_memory=False, --no-memory-check.",
        details=plan.to_json(),
    )


def megabytes(size: int) -> str:
    return "under 0.1 MB" if 0 < size < 50_000 else f"{size / 1e6:,.1f} MB"
