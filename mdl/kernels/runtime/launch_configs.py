"""Launch configurations of every kernel, keyed by the major compute capability of the device.

`TABLE` is what a launch uses. `CANDIDATES` is what `python -m benchmarks.gpu --tune` tries on a
card; whoever measures a better one changes `TABLE`. Ahead-of-time compilation
(`mdl.kernels.compiled`) covers both, so no configuration can spill registers unnoticed.
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


def _gemm(
    rows: int, weights: int, split: int, programs: int, stages: int = 2, **more: int
) -> Config:
    meta = {"BN": rows, "WEIGHTS": weights, "SPLIT": split, "PROGRAMS": programs, **more}
    return Config(meta, num_stages=stages)


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
    # CORE: the tensor cores' instruction, 8 (mma) if not said. No warps: they follow.
    "gemm_4bit_8": _everywhere(
        _gemm(32, 128, 4, 256, 3),
        _gemm(32, 128, 4, 2),
        hopper=_gemm(64, 64, 8, 128, 3),
        blackwell=_gemm(64, 64, 8, 128, 3),
    ),
    "gemm_4bit_16": _everywhere(
        _gemm(32, 128, 4, 128, 3),
        _gemm(32, 128, 4, 2),
        hopper=_gemm(64, 64, 4, 128, 3),
        blackwell=_gemm(64, 64, 4, 128, 2),
    ),
    "gemm_4bit_32": _everywhere(
        _gemm(64, 64, 2, 100, 3),
        _gemm(32, 128, 1, 1),
        hopper=_gemm(64, 128, 1, 100, 3, CORE=9),
    ),
    "gemm_4bit_64": _everywhere(
        _gemm(128, 128, 1, 100, 2, ROWS=64),
        _gemm(32, 128, 1, 1, 2, ROWS=64),
        hopper=_gemm(128, 128, 1, 100, 3, ROWS=64, CORE=9),
        blackwell=_gemm(64, 128, 1, 100, 3, ROWS=64, CORE=10),
    ),
    # Where 64 rows of W a program would leave fewer than PROGRAMS.
    "gemm_4bit_32_narrow": _everywhere(
        _gemm(32, 64, 4, 100, 3),
        _gemm(32, 64, 2, 2),
        hopper=_gemm(32, 64, 8, 100, 3),
        blackwell=_gemm(32, 64, 8, 100, 3),
    ),
    "gemm_4bit_64_narrow": _everywhere(
        _gemm(32, 64, 4, 100, 2),
        _gemm(32, 64, 2, 2),
        hopper=_gemm(32, 64, 4, 100, 3),
        blackwell=_gemm(32, 64, 4, 100, 3),
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


_FEW_ROWS = tuple(
    _gemm(rows, weights, split, 1, stages)
    for rows, weights, split, stages in (
        (32, 128, 4, 3), (32, 128, 8, 3), (64, 64, 8, 3), (64, 64, 4, 3), (64, 128, 4, 3)
    )
)  # fmt: skip

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
    "gemm_4bit_8": _FEW_ROWS,
    "gemm_4bit_16": _FEW_ROWS,
    "gemm_4bit_32": (
        _gemm(64, 64, 2, 1, 3),
        _gemm(64, 128, 1, 1, 4, CORE=9),
        _gemm(128, 128, 1, 1, 3, CORE=9),
        _gemm(64, 64, 4, 1, 2),
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
