"""Every kernel and configuration that ahead-of-time compilation covers.

Derived from the tuning table, so a configuration added there is compiled by the next test run.
"""

from collections.abc import Iterator

from mdl.kernels.aot import Variant
from mdl.kernels.tune import CANDIDATES, INTERPRETER, TABLE, Config

_NF4 = "mdl.kernels.nf4_kernels"


def variants(*, candidates: bool = False) -> list[Variant]:
    """Every variant a launch can meet; with `candidates`, also those the tuner would try."""
    found: dict[str, Variant] = {}
    for build in (_dequantize, _quantize):
        for variant in build(candidates):
            found.setdefault(variant.name, variant)
    return list(found.values())


def configs(operation: str, candidates: bool) -> list[Config]:
    """The configurations of an operation that a GPU may launch, without repeats."""
    rows = [config for major, config in TABLE[operation].items() if major != INTERPRETER]
    unique: list[Config] = []
    for config in [*rows, *(CANDIDATES.get(operation, ()) if candidates else ())]:
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


def _dequantize(candidates: bool) -> Iterator[Variant]:
    cases = [("bf16", 64, 256), ("fp16", 64, 256), ("fp32", 64, 256), ("bf16", 64, 0)]
    for config in configs("dequantize_4bit", candidates):
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


def _quantize(candidates: bool) -> Iterator[Variant]:
    for config in configs("quantize_4bit", candidates):
        for dtype, remap in (("bf16", False), ("fp16", False), ("fp32", False), ("bf16", True)):
            groups = max(1, config["WEIGHTS"] // 64)
            yield Variant(
                "quantize_4bit",
                f"{dtype}-{'fp4' if remap else 'nf4'}-{label(config)}",
                f"{_NF4}:quantize_4bit_kernel",
                {
                    "x_ptr": f"*{dtype}",
                    "bounds_ptr": "*fp32",
                    "order_ptr": "*i32",
                    "packed_ptr": "*u8",
                    "absmax_ptr": "*fp32",
                    "n": "i32",
                },
                {"HALF": 32, "GROUPS": groups, "REMAP": remap},
                config,
                weights=groups * 64,
                max_registers=168,
            )
    for config in configs("quantize_8bit", candidates):
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
