"""Launch configurations of every kernel, keyed by the major compute capability of the device.

`TABLE` is what a launch uses. `CANDIDATES` is what `python -m benchmarks.gpu --tune` tries on a
card; whoever measures a better one changes `TABLE`. Ahead-of-time compilation (`aot.py`) covers
both, so no configuration can spill registers unnoticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

INTERPRETER = 0
"""The key of the configurations for Triton's interpreter: big tiles, because it pays 3-5 ms a
program."""

AMPERE, HOPPER, BLACKWELL, BLACKWELL_CONSUMER = 8, 9, 10, 12


@dataclass(frozen=True)
class Config:
    """How one kernel is launched: tile sizes (`meta`), warps a program, pipeline stages."""

    meta: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2

    def __getitem__(self, name: str) -> int:
        return self.meta[name]


def _everywhere(default: Config, interpreter: Config, **special: Config) -> dict[int, Config]:
    names = {"ampere": AMPERE, "hopper": HOPPER, "blackwell": BLACKWELL, "consumer": 12}
    table = dict.fromkeys((AMPERE, HOPPER, BLACKWELL, BLACKWELL_CONSUMER), default)
    table[INTERPRETER] = interpreter
    for name, config in special.items():
        table[names[name]] = config
    return table


TABLE: dict[str, dict[int, Config]] = {
    # WEIGHTS: elements of the weight one program handles.
    "dequantize_4bit": _everywhere(
        Config({"WEIGHTS": 4096}, num_warps=4), Config({"WEIGHTS": 65536})
    ),
    "quantize_4bit": _everywhere(
        Config({"WEIGHTS": 4096}, num_warps=4), Config({"WEIGHTS": 65536})
    ),
    "quantize_8bit": _everywhere(Config(num_warps=2), Config()),
}

CANDIDATES: dict[str, tuple[Config, ...]] = {
    "dequantize_4bit": tuple(
        Config({"WEIGHTS": weights}, num_warps=warps)
        for weights, warps in ((2048, 2), (2048, 4), (4096, 8), (8192, 8))
    ),
    "quantize_4bit": tuple(
        Config({"WEIGHTS": weights}, num_warps=warps)
        for weights, warps in ((2048, 2), (2048, 4), (4096, 8), (8192, 8))
    ),
}


def config_for(operation: str, major: int) -> Config:
    """The configuration of `operation` on a device of major capability `major`.

    A capability newer than the table gets the newest entry.
    """
    table = TABLE[operation]
    return table[major] if major in table else table[max(table)]
