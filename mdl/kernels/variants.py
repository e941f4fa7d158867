"""Every kernel and configuration that ahead-of-time compilation covers.

Derived from the tuning table, so a configuration added there is compiled by the next test run.
"""

from collections.abc import Callable, Iterator
from typing import Any

from mdl.kernels.aot import Variant
from mdl.kernels.linear4bit import gemv_width
from mdl.kernels.nf4_tables import GRID
from mdl.kernels.tune import CANDIDATES, Config, config_for

_NF4 = "mdl.kernels.nf4_kernels"
_LINEAR = "mdl.kernels.linear4bit_kernels"


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
    unique: list[Config] = []
    for config in (config_for(operation, capability // 10), *tried):
        if config not in unique:
            unique.append(config)
    return unique


def label(config: Config) -> str:
    """`WEIGHTS4096-w4-s2`: one configuration as a word."""
    meta = "-".join(f"{name}{value}" for name, value in config.meta.items())
    return f"{meta}-w{config.num_warps}-s{config.num_stages}".lstrip("-")


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
                },
                {"HALF": size // 2, "NESTED": nested, "GROUPS": groups},
                config,
                unaligned=frozenset({"offset_ptr"}),
                weights=groups * size,
                max_registers=128,
                budget=dict.fromkeys((80, 90, 100, 120), 18.0) if dtype != "fp32" else {},
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
                },
                {"HALF": 32, "GROUPS": groups, "CELLS": GRID[form]},
                config,
                weights=groups * 64,
                max_registers=168,
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


def _gemv(configs: Configs) -> Iterator[Variant]:
    for config in configs("gemv_4bit"):
        for rows in sorted({config["BN"], max(1, config["BN"] // 2), 1}, reverse=True):
            for dtype in ("bf16", "fp16", "fp32") if rows == config["BN"] else ("bf16",):
                yield Variant(
                    "gemv_4bit",
                    f"{dtype}-rows{rows}-{label(config)}",
                    f"{_LINEAR}:gemv_4bit_kernel",
                    {**_linear_types(dtype), "N": "i32", "K": "i32"},
                    {
                        **_linear_constants(dtype, config),
                        "BN": rows,
                        "GROUPS": gemv_width(config["WEIGHTS"], dtype) // 64,
                    },
                    config,
                    unaligned=frozenset({"offset_ptr"}),
                    weights=rows * gemv_width(config["WEIGHTS"], dtype),
                    budget=_budget(config, rows, dtype),
                )


def _budget(config: Config, rows: int, dtype: str) -> dict[int, float]:
    """Instructions a weight for the decode kernel as it is used for large projections."""
    if dtype != "bf16" or rows < 4 or config.num_warps > 1:
        return {}
    return {80: 6.6, 90: 6.3, 100: 6.6, 120: 6.9}


def _gemm(configs: Configs) -> Iterator[Variant]:
    for operation in ("gemm_4bit_16", "gemm_4bit_32", "gemm_4bit_64", "gemm_4bit_split"):
        split = operation.endswith("split")
        height = 16 if split else int(operation[-2:])
        for config in configs(operation):
            slices = {"SPLIT": config["SPLIT"]} if split else {}
            for dtype in ("bf16", "fp16"):
                yield Variant(
                    operation,
                    f"{dtype}-{label(config)}",
                    f"{_LINEAR}:gemm_4bit_{'split_' if split else ''}kernel",
                    {**_linear_types(dtype), "M": "i32", "N": "i32", "K": "i32"},
                    {
                        **_linear_constants(dtype, config),
                        "UPCAST": False,
                        "BN": config["BN"],
                        "GROUPS": config["WEIGHTS"] // 64,
                        "BM": height,
                        **slices,
                    },
                    config,
                    unaligned=frozenset({"offset_ptr", "M"}),
                    weights=config["BN"] * config["WEIGHTS"] * config.meta.get("SPLIT", 1),
                )


def _linear_types(dtype: str) -> dict[str, str]:
    return {
        "x_ptr": "*i64" if dtype == "fp32" else "*i32",
        "packed_ptr": "*u8",
        **_scale_types(256),
        "code_ptr": "*fp32",
        "bias_ptr": f"*{dtype}",
        "out_ptr": f"*{dtype}",
    }


def _linear_constants(dtype: str, config: Config) -> dict[str, Any]:
    return {"HALF": 32, "NESTED": 256, "KIND": dtype, "BIAS": False}


BUILDERS: tuple[Callable[[Configs], Iterator[Variant]], ...] = (
    _dequantize,
    _quantize,
    _gemv,
    _gemm,
)
