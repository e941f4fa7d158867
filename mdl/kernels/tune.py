"""Launch configurations of every kernel, keyed by the major compute capability of the device.

`TABLE` is what a launch uses. `CANDIDATES` is what `python -m benchmarks.gpu --tune` tries on a
card; whoever measures a better one changes `TABLE`. Ahead-of-time compilation (`aot.py`) covers
both, so no configuration can spill registers unnoticed.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

INTERPRETER = 0
"""The key of the configurations for Triton's interpreter: big tiles, because it pays 3-5 ms a
program."""

AMPERE, HOPPER, BLACKWELL, BLACKWELL_CONSUMER = 8, 9, 10, 12


@dataclass(frozen=True, eq=False)
class Config:
    """How one kernel is launched: tile sizes (`meta`), warps a program, pipeline stages.

    Compared by identity, so what follows from one can be kept by it.
    """

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


def _few_rows(programs: int) -> dict[int, Config]:
    """For up to 16 rows of x. More slices of k where a program may have more shared memory."""
    meta = {"BN": 32, "WEIGHTS": 128, "PROGRAMS": programs}
    large = Config({**meta, "SPLIT": 8}, num_stages=3)
    return _everywhere(
        Config({**meta, "SPLIT": 4}, num_stages=3),
        Config({**meta, "SPLIT": 4, "PROGRAMS": 2}),
        hopper=large,
        blackwell=large,
    )


TABLE: dict[str, dict[int, Config]] = {
    # WEIGHTS: elements of the weight one program handles.
    "dequantize_4bit": _everywhere(
        Config({"WEIGHTS": 4096}, num_warps=4), Config({"WEIGHTS": 65536})
    ),
    "quantize_4bit": _everywhere(
        Config({"WEIGHTS": 4096}, num_warps=4), Config({"WEIGHTS": 65536})
    ),
    "quantize_8bit": _everywhere(Config(num_warps=2), Config()),
    # BN: rows of W a program, halved until PROGRAMS programs are left. WEIGHTS: of each row a turn.
    "gemv_4bit": _everywhere(
        Config({"BN": 4, "WEIGHTS": 1024, "PROGRAMS": 1024}, num_warps=1, num_stages=3),
        Config({"BN": 16, "WEIGHTS": 256, "PROGRAMS": 1}),
        blackwell=Config({"BN": 4, "WEIGHTS": 512, "PROGRAMS": 1024}, num_warps=1, num_stages=3),
    ),
    # By rows of x a program multiplies. BN, PROGRAMS: as above, 16 rows at least. SPLIT: slices of
    # k, a warp each; 1: a warp for each 16 rows of W. ROWS: above so many, dequantize and cuBLAS.
    # No warps: they follow.
    "gemm_4bit_8": _few_rows(256),
    "gemm_4bit_16": _few_rows(128),
    "gemm_4bit_32": _everywhere(
        Config({"BN": 64, "WEIGHTS": 128, "SPLIT": 1, "PROGRAMS": 1}, num_stages=2),
        Config({"BN": 32, "WEIGHTS": 128, "SPLIT": 1, "PROGRAMS": 1}),
        hopper=Config({"BN": 64, "WEIGHTS": 128, "SPLIT": 1, "PROGRAMS": 1}, num_stages=3),
        blackwell=Config({"BN": 64, "WEIGHTS": 128, "SPLIT": 1, "PROGRAMS": 1}, num_stages=3),
    ),
    "gemm_4bit_64": _everywhere(
        Config({"BN": 128, "WEIGHTS": 128, "SPLIT": 1, "PROGRAMS": 100, "ROWS": 64}, num_stages=2),
        Config({"BN": 32, "WEIGHTS": 128, "SPLIT": 1, "PROGRAMS": 1, "ROWS": 64}),
        hopper=Config(
            {"BN": 128, "WEIGHTS": 128, "SPLIT": 1, "PROGRAMS": 100, "ROWS": 64}, num_stages=3
        ),
        blackwell=Config(
            {"BN": 64, "WEIGHTS": 128, "SPLIT": 1, "PROGRAMS": 1, "ROWS": 64}, num_stages=3
        ),
    ),
    # TILE: elements a program of short rows takes together. PROGRAMS: of the backward pass.
    "norm_forward": _everywhere(Config({"TILE": 2048}, 4), Config({"TILE": 65536})),
    "norm_backward": _everywhere(
        Config({"TILE": 2048, "PROGRAMS": 264}, 4), Config({"TILE": 1024, "PROGRAMS": 2})
    ),
    "rope": _everywhere(Config({"HEADS": 16}, 2), Config({"HEADS": 16})),
    "glu": _everywhere(Config({"BLOCK": 2048}, 4), Config({"BLOCK": 16384})),
    "cross_entropy": _everywhere(Config({"BLOCK": 4096}, 8), Config({"BLOCK": 16384})),
}


_SPLIT_CANDIDATES = tuple(
    Config({"BN": rows, "WEIGHTS": 128, "SPLIT": split, "PROGRAMS": 1}, num_stages=stages)
    for rows, split, stages in ((32, 4, 3), (32, 8, 2), (16, 8, 3), (16, 16, 2), (64, 4, 2))
)

CANDIDATES: dict[str, tuple[Config, ...]] = {
    "dequantize_4bit": tuple(
        Config({"WEIGHTS": weights}, num_warps=warps)
        for weights, warps in ((2048, 2), (2048, 4), (4096, 8), (8192, 8))
    ),
    "quantize_4bit": tuple(
        Config({"WEIGHTS": weights}, num_warps=warps)
        for weights, warps in ((2048, 2), (2048, 4), (4096, 8), (8192, 8))
    ),
    "gemv_4bit": tuple(
        Config({"BN": rows, "WEIGHTS": weights, "PROGRAMS": 1024}, num_warps=1, num_stages=stages)
        for rows, weights, stages in ((4, 1024, 1), (4, 1024, 4), (4, 512, 3), (8, 512, 3))
    ),
    "gemm_4bit_8": _SPLIT_CANDIDATES,
    "gemm_4bit_16": _SPLIT_CANDIDATES,
    "gemm_4bit_32": tuple(
        Config({"BN": rows, "WEIGHTS": weights, "SPLIT": 1, "PROGRAMS": 1}, num_stages=stages)
        for rows, weights, stages in ((64, 128, 4), (64, 256, 2), (128, 128, 3))
    ),
}


@functools.cache
def row_config(config: Config, block: int) -> Config:
    """`config` with enough warps for a program that holds a whole row of `block` elements."""
    return replace(config, num_warps=min(16, max(config.num_warps, block // 1024)))


def config_for(operation: str, major: int) -> Config:
    """The configuration of `operation` on a device of major capability `major`.

    A capability newer than the table gets the newest entry.
    """
    table = TABLE[operation]
    return table[major] if major in table else table[max(table)]
