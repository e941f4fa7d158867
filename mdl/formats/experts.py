"""Which 4- and 8-bit mixtures of experts transformers cannot load, by the names of their tensors.

transformers 5 has the weights of all experts of a layer in one tensor. A checkpoint in floats with
a tensor an expert is stacked on load; one whose experts bitsandbytes packed one by one is not: the
packed bytes have no place in the stacked tensor.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mdl.formats.quant_config import config_format, find_tables
from mdl.formats.runtimes import runtimes_of

# The model types whose class in transformers stacks the experts, composite ones by their text's.
STACKED = frozenset((
    "afmoe", "aria_text", "axk1", "bailing_hybrid", "cohere2_moe", "deepseek_v2", "deepseek_v3",
    "deepseek_v32", "dots1", "ernie4_5_moe", "ernie4_5_vl_moe", "exaone_moe", "flex_olmo",
    "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm4v_moe_text", "glm_moe_dsa", "gpt_oss",
    "granitemoe", "granitemoehybrid", "granitemoeshared", "hunyuan_v1_moe", "jamba", "jetmoe",
    "kimi_linear", "lfm2_moe", "llama4", "llama4_text", "longcat_flash", "mimo_v2_flash",
    "minimax", "minimax_m2", "mixtral", "nemotron_h", "olmoe", "phimoe", "qwen2_moe",
    "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen3_omni_moe",
    "qwen3_vl_moe", "qwen3_vl_moe_text", "solar_open",
))  # fmt: skip
# A part of one expert's packed weight: `experts.7.up_proj.weight.absmax`, or, as Unsloth's own
# class has it, `experts.up_projs.7.weight.absmax`.
_ONE_EXPERT = re.compile(
    r".*\.experts\.(?:(\w+)\.)?\d+\.(?:\w+\.)*?(?:weight\.(?:absmax|quant_state\.\S+)|SCB)"
)


class ApartExperts(NamedTuple):
    """A tensor that shows that the experts were packed one by one, and what loads them."""

    tensor: str
    runtimes: tuple[str, ...]


def may_be_apart(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a mixture of experts packed by bitsandbytes, for a class of
    transformers that stacks experts; the names of its tensors tell the rest."""
    text = config.get("text_config")
    types = [config.get("model_type"), text.get("model_type") if isinstance(text, Mapping) else ""]
    table = next((table for _, table in find_tables(config)), None)
    packed = table is not None and config_format(table) in ("bnb-4bit", "8bit")
    stacked = any(isinstance(kind, str) and kind in STACKED for kind in types)
    return packed and stacked and not config.get("auto_map")


def find_apart(config: Mapping[str, Any], names: Iterable[str]) -> ApartExperts | None:
    """The sign that a checkpoint's experts are packed one by one; `None` where there is none.

    Args:
        config: its config.json.
        names: its tensors.
    """
    if not may_be_apart(config):
        return None
    found = next((match for name in names if (match := _ONE_EXPERT.fullmatch(name))), None)
    if found is None:
        return None
    loads = set(runtimes_of("bnb-4bit")) - {"transformers"}
    if found[1]:  # the layout of Unsloth's own class
        loads = {"unsloth"}
    return ApartExperts(found[0], tuple(name for name in runtimes_of("bnb-4bit") if name in loads))
