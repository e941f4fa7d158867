"""Launch configurations of every kernel, keyed by the major compute capability of the device.

`TABLE` is what a launch uses. `CANDIDATES` is what `python -m benchmarks.gpu --tune` tries on a
card; whoever measures a better one changes `TABLE`. Ahead-of-time compilation (`aot.py`) covers
both, so no configuration can spill registers unnoticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
    # BN: rows of W a program, halved until PROGRAMS programs are left. WEIGHTS: of each row a turn.
    "gemv_4bit": _everywhere(
        Config({"BN": 4, "WEIGHTS": 1024, "PROGRAMS": 1024}, num_warps=1),
        Config({"BN": 16, "WEIGHTS": 256, "PROGRAMS": 1}),
        blackwell=Config({"BN": 4, "WEIGHTS": 512, "PROGRAMS": 1024}, num_warps=1),
    ),
    # By rows of x a program multiplies. ROWS: above so many, dequantize and cuBLAS.
    "gemm_4bit_16": _everywhere(
        Config({"BN": 32, "WEIGHTS": 128}, num_warps=1, num_stages=3),
        Config({"BN": 32, "WEIGHTS": 128}),
    ),
    "gemm_4bit_32": _everywhere(
        Config({"BN": 64, "WEIGHTS": 128}, num_warps=4, num_stages=3),
        Config({"BN": 32, "WEIGHTS": 128}),
    ),
    "gemm_4bit_64": _everywhere(
        Config({"BN": 64, "WEIGHTS": 64, "ROWS": 64}, num_warps=4, num_stages=3),
        Config({"BN": 32, "WEIGHTS": 128, "ROWS": 64}),
        hopper=Config({"BN": 64, "WEIGHTS": 128, "ROWS": 64}, num_warps=4, num_stages=3),
        blackwell=Config({"BN": 64, "WEIGHTS": 128, "ROWS": 64}, num_warps=4, num_stages=3),
    ),
    # For a W so narrow that gemm_4bit_16 would start fewer than PROGRAMS programs.
    "gemm_4bit_split": _everywhere(
        Config({"BN": 16, "WEIGHTS": 128, "SPLIT": 4, "PROGRAMS": 512}, 4, 3),
        Config({"BN": 16, "WEIGHTS": 128, "SPLIT": 4, "PROGRAMS": 2}),
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
        Config({"BN": rows, "WEIGHTS": weights, "PROGRAMS": 1024}, num_warps=warps)
        for rows, weights, warps in ((2, 1024, 1), (4, 512, 1), (8, 512, 1), (2, 2048, 2))
    ),
    "gemm_4bit_16": tuple(
        Config({"BN": rows, "WEIGHTS": weights}, num_warps=warps, num_stages=stages)
        for rows, weights, warps, stages in (
            (16, 128, 1, 4),
            (64, 128, 4, 3),
            (64, 256, 4, 2),
            (128, 128, 4, 3),
        )
    ),
    "gemm_4bit_split": tuple(
        Config({"BN": 16, "WEIGHTS": 128, "SPLIT": split, "PROGRAMS": 512}, split, stages)
        for split, stages in ((2, 3), (4, 2), (8, 2))
    ),
}


def row_config(config: Config, block: int) -> Config:
    """`config` with enough warps for a program that holds a whole row of `block` elements."""
    return replace(config, num_warps=min(16, max(config.num_warps, block // 1024)))


def config_for(operation: str, major: int) -> Config:
    """The configuration of `operation` on a device of major capability `major`.

    A capability newer than the table gets the newest entry.
    """
    table = TABLE[operation]
    return table[major] if major in table else table[max(table)]
