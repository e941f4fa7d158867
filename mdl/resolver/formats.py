"""Which format a repository's weights have: what its name claims, what its config shows."""

import re
from collections.abc import Collection, Mapping
from typing import Any

# Publishers' habits, seen in the names of the packaged catalogue; a claim, not a proof.
_CLAIMS = (
    (r"bnb-?_?4bit|nf4|[-_]4bit-bnb", "bnb-4bit"),
    (r"bnb-?_?8bit|[-_]int8$", "8bit"),
    (r"gguf", "gguf"),
    (r"[-_]awq", "awq"),
    (r"[-_]gptq", "gptq"),
    (r"[-_]fp8", "fp8"),
    (r"[-_](mlx|nvfp4|mxfp4|exl2|exl3)|[-_][48]bit$", "other"),
)
# Most names claim nothing, and one search says so: each claim holds one of these, and where every
# alternative begins with a letter, `re` skips what none begins with.
_ANY_MARK = re.compile("4bit|8bit|nf4|int8|gguf|awq|gptq|fp8|mlx|fp4|exl")
ADAPTER = "adapter_config.json"
_MODEL_WEIGHTS = r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)"
_METHODS = {"fp8": "fp8", "fbgemm_fp8": "fp8", "awq": "awq", "gptq": "gptq"}


def claimed_format(name: str) -> str | None:
    """The format a name claims, `None` when it claims nothing (then it is most likely 16-bit)."""
    lowered = name.lower()
    if _ANY_MARK.search(lowered):
        for pattern, found in _CLAIMS:
            if re.search(pattern, lowered):
                return found
    return None


def config_format(quantization: Mapping[str, Any] | None) -> str:
    """The format behind a `config.json`'s `quantization_config` (`None`: there is none)."""
    if not quantization:
        return "16bit"
    method = str(quantization.get("quant_method", "")).lower()
    if method == "bitsandbytes" or "load_in_4bit" in quantization:
        return "bnb-4bit" if quantization.get("load_in_4bit") else "8bit"
    if method == "compressed-tensors":
        return "fp8" if "float" in str(quantization.get("config_groups", "")) else "other"
    return _METHODS.get(method, "other")


def is_adapter(paths: Collection[str]) -> bool:
    """Whether a repository with these files is an adapter, that goes on a model of another name."""
    return ADAPTER in paths and not any(re.fullmatch(_MODEL_WEIGHTS, path) for path in paths)
