"""Every kernel and configuration that ahead-of-time compilation covers.

Derived from the tuning table, so a configuration added there is compiled by the next test run.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from mdl.kernels.compiled.compile import (
    CAPABILITIES,
    Resources,
    Variant,
    compile_jobs,
    compiler_pool,
)
from mdl.kernels.nf4 import GRID
from mdl.kernels.ops import HEIGHTS, KINDS, gemm_plan, is_narrow, loop_of, piece_of
from mdl.kernels.runtime import CANDIDATES, Config, config_for, row_config

_NF4 = "mdl.kernels.nf4.kernels"
_LINEAR = "mdl.kernels.ops.linear4bit_kernels"


def variants(capability: int, *, candidates: bool = False) -> list[Variant]:
    """The variants a launch on `sm_<capability>` can meet; with `candidates`, the tuner's too."""
    found: dict[str, Variant] = {}
    for build in BUILDERS:
        for variant in build(lambda operation: configs(operation, capability, candidates)):
            found.setdefault(variant.name, variant)
    return list(found.values())


Configs = Callable[[str], list[Config]]


def configs(operation: str, capability: int, candidates: bool) -> list[Config]:
    """The configurations of an operation on one GPU, without repeats."""
    tried = CANDIDATES.get(operation, ()) if candidates else ()
    unique: dict[str, Config] = {}
    for config in (config_for(operation, capability // 10), *tried):
        unique.setdefault(label(config), config)
    return list(unique.values())


def label(config: Config) -> str:
    """`WEIGHTS4096-w4-s2`: one configuration as a word."""
    meta = "-".join(f"{name}{value}" for name, value in config.meta.items())
    return f"{meta}-w{config.num_warps}-s{config.num_stages}".lstrip("-")


def _on(ampere: float, hopper: float, blackwell: float, consumer: float) -> dict[int, float]:
    return dict(zip(CAPABILITIES, (ampere, hopper, blackwell, consumer), strict=True))


BUDGETS = {
    "dequantize_4bit": _on(13.0, 14.0, 14.0, 15.0),
    "quantize_4bit": _on(30.0, 30.0, 30.0, 30.0),
    "gemv_4bit": _on(5.9, 5.9, 6.3, 5.9),
    "gemm_4bit_8": _on(6.0, 6.0, 5.5, 6.0),
    "gemm_4bit_16": _on(6.5, 6.5, 5.9, 6.4),
    "gemm_4bit_32": _on(7.4, 8.0, 7.1, 7.2),
    "gemm_4bit_64": _on(10.8, 7.9, 6.9, 10.6),
    "cross_entropy": _on(17.0, 17.0, 17.0, 17.0),
}
"""Most instructions a weight, or a logit. An H100 hides about 25 behind its memory for the two
formats (2.516 bytes a weight), 5 to 6 for a product with few rows (0.516), 20 for a logit that is
read once (2). What shared memory takes is counted by `benchmarks.kernels_traffic`."""
NARROW = {
    "gemm_4bit_8": _on(6.5, 6.4, 5.8, 6.5),
    "gemm_4bit_16": _on(7.2, 7.0, 6.2, 7.2),
    "gemm_4bit_64": _on(10.6, 9.2, 11.0, 10.4),
    "gemm_4bit_32_narrow": _on(9.4, 9.4, 8.8, 9.1),
    "gemm_4bit_64_narrow": _on(11.1, 11.4, 10.9, 10.6),
}
"""The same where W is so narrow that a program takes fewer rows."""


def _scale_types(nested: int) -> dict[str, str]:
    return {
        "absmax_ptr": "*u8" if nested else "*fp32",
        "nested_code_ptr": "*fp32",
        "nested_absmax_ptr": "*fp32",
        "offset_ptr": "*fp32",
    }


def _dequantize(configs: Configs) -> Iterator[Variant]:
    cases = [("bf16", 64, 256), ("fp16", 64, 256), ("fp32", 64, 256), ("bf16", 64, 0)]
    for config in configs("dequantize_4bit"):
        for dtype, size, nested in [*cases, ("bf16", 4096, 256)]:
            groups = max(1, config["WEIGHTS"] // size)
            yield Variant(
                "dequantize_4bit",
                f"{dtype}-block{size}-{'nested' if nested else 'plain'}-{label(config)}",
                f"{_NF4}:dequantize_4bit_kernel",
                {
                    "packed_ptr": "*u8",
                    **_scale_types(nested),
                    "code_ptr": "*fp32",
                    "out_ptr": f"*{dtype}",
                    "n": "i32",
                    "bytes": "i32",
                },
                {"HALF": size // 2, "NESTED": nested, "GROUPS": groups},
                config,
                unaligned=frozenset({"offset_ptr"}),
                elements=groups * size,
                max_registers=128,
                budget=BUDGETS["dequantize_4bit"],
            )


def _quantize(configs: Configs) -> Iterator[Variant]:
    for config in configs("quantize_4bit"):
        for dtype, form in (("bf16", "nf4"), ("fp16", "nf4"), ("fp32", "nf4"), ("bf16", "fp4")):
            groups = max(1, config["WEIGHTS"] // 64)
            yield Variant(
                "quantize_4bit",
                f"{dtype}-{form}-{label(config)}",
                f"{_NF4}:quantize_4bit_kernel",
                {
                    "x_ptr": f"*{dtype}",
                    "inside_ptr": "*fp32",
                    "nibbles_ptr": "*i32",
                    "packed_ptr": "*u8",
                    "absmax_ptr": "*fp32",
                    "n": "i32",
                    "bytes": "i32",
                },
                {"HALF": 32, "GROUPS": groups, "CELLS": GRID[form]},
                config,
                elements=groups * 64,
                max_registers=168,
                budget=BUDGETS["quantize_4bit"],
            )
    for config in configs("quantize_8bit"):
        pointers = {"x_ptr": "*fp32", "table_ptr": "*u8", "out_ptr": "*u8", "absmax_ptr": "*fp32"}
        yield Variant(
            "quantize_8bit",
            label(config),
            f"{_NF4}:quantize_8bit_kernel",
            {**pointers, "n": "i32"},
            {"BLOCK": 256},
            config,
            max_registers=64,
        )


SPANNING = (4000, 72, 3422)
"""Row lengths whose blocks of 64 span rows: in pieces of 32, of 8 and of 2."""


def _geometries(dtypes: tuple[str, ...]) -> list[tuple[str, str, int, int]]:
    """(name, dtype, block size, K) of the products that are compiled."""
    return [
        *((f"{dtype}-block64", dtype, 64, 4096) for dtype in dtypes),
        *((f"bf16-block{block}", "bf16", block, 4096) for block in (32, 128, 4096)),
        *((f"bf16-block64-K{k}", "bf16", 64, k) for k in SPANNING),
    ]


def _gemv(configs: Configs) -> Iterator[Variant]:
    for config in configs("gemv_4bit"):
        narrow = sorted({1, max(1, config["BN"] // 2)} - {config["BN"]}, reverse=True)
        cases = [(*one, config["BN"]) for one in _geometries(("bf16", "fp16", "fp32"))]
        cases += [("bf16-block64", "bf16", 64, 4096, rows) for rows in narrow]
        for name, dtype, block, k, rows in cases:
            loop = _loop(block, k, config["WEIGHTS"])
            as_used = (block, k) == (64, 4096) and rows >= 4  # by large projections
            variant = Variant(
                "gemv_4bit",
                f"{name}-rows{rows}-{label(config)}",
                f"{_LINEAR}:gemv_4bit_kernel",
                {**_linear_types(dtype, pairs=True), "N": "i32", "K": "i32"},
                {
                    **loop,
                    "KIND": dtype,
                    "BIAS": False,
                    "BN": rows,
                    "STAGES": config.num_stages,
                },
                config,
                unaligned=frozenset({"offset_ptr"} if k % 16 == 0 else {"offset_ptr", "K"}),
                elements=rows * _turn(loop),
                budget=BUDGETS["gemv_4bit"] if as_used else {},
            )
            yield from _both_scales(variant, name)


def _gemm(configs: Configs) -> Iterator[Variant]:
    for height in HEIGHTS:
        operation = f"gemm_4bit_{height}"
        for config in configs(operation):
            yield from _gemm_of(operation, height, config)
            if is_narrow(operation, 0, 32, config):
                for narrow in configs(f"{operation}_narrow"):
                    yield from _gemm_of(f"{operation}_narrow", height, narrow, least_piece=8)


def _gemm_of(
    operation: str, height: int, config: Config, least_piece: int = 0
) -> Iterator[Variant]:
    many, few = 1 << 30, config["PROGRAMS"] * config["BN"] // 2  # rows of W
    cases = [(*one, many) for one in _geometries(("bf16", "fp16"))]
    for name, dtype, block, k, n in [*cases, ("bf16-block64", "bf16", 64, 4096, few)]:
        piece = piece_of(k, block)
        if piece < least_piece or is_narrow(operation, n, piece, config):
            continue  # the other table's
        plan = gemm_plan(config, height, n, k, block, 256)
        rows, split = plan.constants["BN"], plan.constants["SPLIT"]
        table = BUDGETS if n == many and not least_piece else NARROW
        variant = Variant(
            operation,
            f"{name}-rows{rows}-{label(plan.config)}",
            f"{_LINEAR}:gemm_4bit_kernel",
            {**_linear_types(dtype), "M": "i32", "N": "i32", "K": "i32"},
            {**plan.constants, "UPCAST": False, "BIAS": False},
            plan.config,
            unaligned=frozenset({"offset_ptr", "M"} | ({"K"} if k % 16 else set())),
            elements=rows * _turn(plan.constants) * split,
            budget=table.get(operation, {}) if (block, k) == (64, 4096) else {},
        )
        yield from _both_scales(variant, name)


def _both_scales(variant: Variant, name: str) -> Iterator[Variant]:
    """A product, and the most usual one also with float32 scales: no double quantization."""
    yield variant
    if name == "bf16-block64":
        yield replace(
            variant,
            detail=variant.detail.replace(name, f"{name}-plain", 1),
            types={**variant.types, **_scale_types(0)},
            constants={**variant.constants, "NESTED": 0},
        )


def _linear_types(dtype: str, *, pairs: bool = False) -> dict[str, str]:
    pair = "*i64" if dtype == "fp32" else "*i32"
    return {
        "x_ptr": pair if pairs else f"*{dtype}",
        "packed_ptr": "*u8",
        **_scale_types(256),
        "code_ptr": "*fp32",
        "bias_ptr": f"*{dtype}",
        "out_ptr": f"*{dtype}",
    }


def _loop(block: int, k: int, width: int, split: int = 1) -> dict[str, Any]:
    return loop_of(k, block, 256, width, split)


def _turn(loop: dict[str, Any]) -> int:
    """Elements of a row that one turn of the loop takes."""
    return int(2 * loop["HALF"] * loop["GROUPS"])


def _norm(configs: Configs) -> Iterator[Variant]:
    module = "mdl.kernels.ops.norm_kernels"
    rows = {"mean_ptr": "*fp32", "rstd_ptr": "*fp32"}
    for center, residual in ((False, False), (False, True), (True, False)):
        what = "layer" if center else "add-rms" if residual else "rms"
        for width in (128, 8192):
            for config in configs("norm_forward"):
                wide = dict.fromkeys(("x_ptr", "residual_ptr", "weight_ptr"), "*bf16")
                outs = dict.fromkeys(("bias_ptr", "y_ptr", "sum_ptr"), "*bf16")
                sizes = dict.fromkeys(("rows", "H", "x_stride", "residual_stride"), "i32")
                constants = {"CENTER": center, "RESIDUAL": residual, "BIAS": center}
                tile = {"ROWS": max(1, config["TILE"] // width), "BLOCK": width}
                yield Variant(
                    "norm_forward",
                    f"{what}-H{width}-{label(config)}",
                    f"{module}:norm_forward_kernel",
                    {**wide, **outs, **rows, **sizes, "eps": "fp32"},
                    {**constants, "OFFSET": 0.0, "CAST": not center, **tile},
                    row_config(config, width),
                    unaligned=frozenset({"rows"}),
                )
            for config in configs("norm_backward"):
                names = ("grad_ptr", "grad_sum_ptr", "x_ptr", "weight_ptr")
                parts = dict.fromkeys(("grad_weight_ptr", "grad_bias_ptr"), "*fp32")
                wide = dict.fromkeys(names, "*bf16")
                sizes = dict.fromkeys(("rows", "H", "x_stride"), "i32")
                constants = {"CENTER": center, "RESIDUAL": residual, "BIAS": center}
                tile = {"ROWS": max(1, config["TILE"] // width), "BLOCK": width}
                yield Variant(
                    "norm_backward",
                    f"{what}-H{width}-{label(config)}",
                    f"{module}:norm_backward_kernel",
                    {**wide, **rows, "grad_x_ptr": "*bf16", **parts, **sizes},
                    {**constants, "OFFSET": 0.0, **tile},
                    row_config(config, width),
                    unaligned=frozenset({"rows"}),
                )


def _rope(configs: Configs) -> Iterator[Variant]:
    pointers = ("q_ptr", "k_ptr", "cos_ptr", "sin_ptr", "q_out_ptr", "k_out_ptr")
    counts = ("tokens", "q_heads", "k_heads")
    strides = ("D", "q_batch", "q_head", "q_token", "k_batch", "k_head", "k_token")
    sizes = (*counts, *strides, "cos_batch", "cos_token")
    cases = [("bf16", False, 64, 0), ("bf16", True, 64, 0), ("bf16", False, 48, 32)]
    for config in configs("rope"):
        for table, backward, half, rest in [*cases, ("fp32", False, 40, 0)]:
            tables = dict.fromkeys(("cos_ptr", "sin_ptr"), f"*{table}")
            yield Variant(
                "rope",
                f"{'backward' if backward else 'forward'}-half{half}-{table}-{label(config)}",
                "mdl.kernels.ops.rope_kernels:rope_kernel",
                {**dict.fromkeys(pointers, "*bf16"), **tables, **dict.fromkeys(sizes, "i32")},
                {
                    "HALF": half,
                    "BACKWARD": backward,
                    "HEADS": config["HEADS"],
                    "BLOCK": 64,
                    "REST": rest,
                },
                config,
                unaligned=frozenset(counts),
            )


def _glu(configs: Configs) -> Iterator[Variant]:
    module = "mdl.kernels.ops.glu_kernels"
    sizes = dict.fromkeys(("N", "gate_stride", "up_stride"), "i32")
    for config in configs("glu"):
        for kind in KINDS:
            constants = {"KIND": kind, "BLOCK": config["BLOCK"]}
            forward = dict.fromkeys(("gate_ptr", "up_ptr", "out_ptr"), "*bf16")
            names = ("grad_ptr", "gate_ptr", "up_ptr", "grad_gate_ptr", "grad_up_ptr")
            backward = dict.fromkeys(names, "*bf16")
            for way, pointers in (("forward", forward), ("backward", backward)):
                yield Variant(
                    "glu",
                    f"{way}-{kind}-{label(config)}",
                    f"{module}:glu_{way}_kernel",
                    {**pointers, **sizes},
                    constants,
                    config,
                )


def _loss(configs: Configs) -> Iterator[Variant]:
    module = "mdl.kernels.ops.loss_kernels"
    rows = {"labels_ptr": "*i64"}
    plain = {"SMOOTHING": 0.0, "Z_LOSS": 0.0, "SCALE": 1.0, "CAP": 0.0}
    for config in configs("cross_entropy"):
        for what, how in (("plain", {}), ("all", {"SMOOTHING": 0.1, "Z_LOSS": 0.1, "CAP": 30.0})):
            constants = {**plain, **how, "BLOCK": config["BLOCK"]}
            forward = {"logits_ptr": "*bf16", **rows, "loss_ptr": "*fp32", "lse_ptr": "*fp32"}
            yield Variant(
                "cross_entropy",
                f"forward-{what}-{label(config)}",
                f"{module}:cross_entropy_forward_kernel",
                {**forward, "V": "i32", "stride": "i32", "ignore": "i32"},
                constants,
                config,
                unaligned=frozenset({"ignore"}),
                elements=config["BLOCK"],
                budget=BUDGETS["cross_entropy"] if what == "plain" else {},
            )
            backward = {"grad_ptr": "*fp32", "logits_ptr": "*bf16", **rows, "lse_ptr": "*fp32"}
            yield Variant(
                "cross_entropy",
                f"backward-{what}-{label(config)}",
                f"{module}:cross_entropy_backward_kernel",
                {**backward, "out_ptr": "*bf16", **dict.fromkeys(_BACKWARD_SIZES, "i32")},
                constants,
                config,
                unaligned=frozenset({"ignore"}),
            )


_BACKWARD_SIZES = ("V", "stride", "out_stride", "ignore")

BUILDERS: tuple[Callable[[Configs], Iterator[Variant]], ...] = (
    _dequantize,
    _quantize,
    _gemv,
    _gemm,
    _norm,
    _rope,
    _glu,
    _loss,
)


def compile_all(
    capabilities: tuple[int, ...] = CAPABILITIES, *, candidates: bool = False
) -> list[Resources]:
    """Compile every variant for every target."""
    jobs = [
        (variant, capability)
        for capability in capabilities
        for variant in variants(capability, candidates=candidates)
    ]
    with compiler_pool() as pool:
        return compile_jobs(pool, jobs)
