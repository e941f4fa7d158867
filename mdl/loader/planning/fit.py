"""What fits into this machine's memory, from numbers alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from mdl.formats import ModelShape, kv_cache_bytes
from mdl.formatting import human_size
from mdl.loader.devices import Device

DEFAULT_TOKENS = 2048


@dataclass(frozen=True)
class MemoryNeed:
    """What a load needs, in bytes; `in_4bit` is the size of 4-bit weights, None if they are."""

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


def what_would_fit(need: MemoryNeed, free: int, others: Sequence[Device]) -> tuple[str, ...]:
    """Other ways to load the model that fit, with the arguments to pass.

    Args:
        free: bytes free where the model would go.
        others: devices of this machine that it would not go to.
    """
    ways = []
    tokens = longest_context(need, free)
    if tokens:
        ways.append(f"max_seq_length={tokens}")
    if need.in_4bit is not None and need.in_4bit + need.kv_cache <= free:
        size = human_size(need.in_4bit + need.kv_cache)
        ways.append(f"4-bit weights (load_in_4bit=True, --4bit): {size}")
    ways += [
        f"device_map={device.name!r}: {human_size(device.free)} free"
        for device in others
        if need.total <= device.free
    ]
    return tuple(ways)


def longest_context(need: MemoryNeed, free: int) -> int:
    """The most tokens, in steps of 256, whose KV cache fits beside the weights; 0 for none."""
    low, high = 0, need.tokens // 256
    while low < high:
        middle = (low + high + 1) // 2
        if need.weights + need.kv_cache_at(middle * 256) <= free:
            low = middle
        else:
            high = middle - 1
    return low * 256
